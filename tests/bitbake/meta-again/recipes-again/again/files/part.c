// SPDX-License-Identifier: MIT
#define NAME_(part) part_##part
#define NAME(part) NAME_(part)
int NAME(PART)(void) { return 0; }
#define IS_a 1
#define TEST_(part) IS_##part
#define TEST(part) TEST_(part)
#if TEST(PART)
int main(void) { return 0; }
#endif
