// SPDX-License-Identifier: MIT
#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

int UNIT(const std::string &text) {
    std::map<std::string, std::vector<std::set<int>>> tree;
    std::unordered_map<std::string, std::function<int(int)>> steps;
    steps["one"] = [](int number) { return number + 1; };
    for (char letter : text)
        tree[std::string(1, letter)].push_back({letter, steps["one"](letter)});
    return static_cast<int>(tree.size());
}
