// SPDX-License-Identifier: MIT
double part1(double);
double part2(double);
double part3(double);

int main() { return part1(1) + part2(1) + part3(1) > 1e300; }
