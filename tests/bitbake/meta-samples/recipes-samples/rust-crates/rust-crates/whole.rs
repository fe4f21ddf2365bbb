// SPDX-License-Identifier: MIT
fn main() {
    let number = std::env::args().count();
    let parts = [part1::count_all, part2::count_all, part3::count_all, part4::count_all];
    let others = [part5::count_all, part6::count_all, part7::count_all, part8::count_all];
    println!("{}", parts.iter().chain(&others).map(|count| count(number)).sum::<usize>());
}
