// SPDX-License-Identifier: MIT
// Triangulations in two and three dimensions, and a convex hull.
#pragma once

#define CGAL_NO_GMP 1
#define CGAL_DISABLE_GMP 1
#include <CGAL/Exact_predicates_inexact_constructions_kernel.h>

#include <CGAL/Delaunay_triangulation_2.h>
#include <CGAL/Delaunay_triangulation_3.h>
#include <CGAL/convex_hull_2.h>

#include <iterator>
#include <vector>

template <int Part>
int triangulate(int count) {
    using Kernel = CGAL::Exact_predicates_inexact_constructions_kernel;
    CGAL::Delaunay_triangulation_3<Kernel> space;
    CGAL::Delaunay_triangulation_2<Kernel> plane;
    std::vector<Kernel::Point_2> points, hull;
    for (int i = 0; i < count * Part; i++) {
        space.insert(Kernel::Point_3(i, i * i % 7, i % 13));
        plane.insert(Kernel::Point_2(i, i * i % 11));
        points.push_back(Kernel::Point_2(i, i % 17));
    }
    CGAL::convex_hull_2(points.begin(), points.end(), std::back_inserter(hull));
    return space.number_of_vertices() + plane.number_of_vertices() + hull.size();
}
