// SPDX-License-Identifier: MIT
#include <string>

double part1(const std::string &);
double part2(const std::string &);
double part3(const std::string &);
double part4(const std::string &);
double part5(const std::string &);
double part6(const std::string &);

int main() { return part1("1") + part2("1") + part3("1") + part4("1") + part5("1") + part6("1") > 1e9; }
