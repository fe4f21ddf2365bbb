# SPDX-License-Identifier: MIT
SUMMARY = "A program in Rust and eight crates that need nothing but the standard library, built by Cargo"

do_configure() {
    for number in 1 2 3 4 5 6 7 8; do
        mkdir -p ${S}/part$number/src
        sed "s/@NUMBER@/$number/" ${S}/part.toml > ${S}/part$number/Cargo.toml
        cp ${S}/part.rs ${S}/part$number/src/lib.rs
    done
}

# RUST_BIN is where cargo and rustc are; the bench finds out.
do_compile() {
    PATH="${RUST_BIN}:$PATH" cargo build --release --offline ${PARALLEL_MAKE} \
        --manifest-path ${S}/Cargo.toml --target-dir ${B}
}
