//! Gives the shared library the name under which programs ask for a CUDA driver.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Only ELF linkers know a SONAME; elsewhere the library is found by its file name.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    }
}
