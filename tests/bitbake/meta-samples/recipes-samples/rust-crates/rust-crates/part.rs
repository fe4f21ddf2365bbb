// SPDX-License-Identifier: MIT
//! Types that can be printed, compared, hashed and sorted, and so give the compiler something to do.
use std::collections::{BTreeMap, HashMap};

macro_rules! shapes {
    ($($name:ident)*) => {
        $(
            #[derive(Clone, Debug, Default, PartialEq, PartialOrd, Eq, Ord, Hash)]
            pub struct $name { pub width: u32, pub name: String, pub sides: Vec<u64>, pub inner: Option<Box<$name>> }

            impl $name {
                pub fn count(words: &[$name]) -> usize {
                    let mut sorted: Vec<_> = words.to_vec();
                    sorted.sort();
                    let mut seen: HashMap<$name, usize> = HashMap::new();
                    let mut tree: BTreeMap<$name, String> = BTreeMap::new();
                    for word in sorted {
                        *seen.entry(word.clone()).or_default() += 1;
                        tree.insert(word.clone(), format!("{word:?}"));
                    }
                    seen.len() + tree.values().map(String::len).sum::<usize>()
                }
            }
        )*
        pub fn count_all(number: usize) -> usize {
            0 $(+ $name::count(&vec![$name::default(); number]))*
        }
    };
}

shapes! {
    Arc Bow Cone Cube
}
