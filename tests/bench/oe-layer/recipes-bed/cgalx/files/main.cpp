// SPDX-License-Identifier: MIT
int part1(int);
int part2(int);
int part3(int);
int part4(int);

int main() { return part1(9) + part2(9) + part3(9) + part4(9) > 100000; }
