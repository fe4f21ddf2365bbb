// SPDX-License-Identifier: MIT
// Three decompositions of a matrix whose size the compiler knows: each size is instantiated anew.
#pragma once

#include <Eigen/Dense>
#include <Eigen/Sparse>
#include <unsupported/Eigen/CXX11/Tensor>

template <int Size>
double decompose(double factor) {
    using Square = Eigen::Matrix<double, Size, Size>;
    Square matrix = Square::Random() * factor;
    Eigen::JacobiSVD<Square> svd(matrix, Eigen::ComputeFullU | Eigen::ComputeFullV);
    return svd.singularValues().sum() + matrix.fullPivLu().determinant() +
           matrix.householderQr().householderQ().operator*(matrix).norm();
}
