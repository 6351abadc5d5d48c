//! How the binary is linked, where the linker and the C library can: the relocations that a static program at a random
//! address has (270 KB, read page by page at every start) are packed into a hundredth. Nothing is generated here.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|set| set == value);
    // Elsewhere rustc does not bring its own linker; and only this machine's C library can be asked for its version.
    let native = env::var("HOST").is_ok_and(|host| is("TARGET", &host));
    if native && is("TARGET", "x86_64-unknown-linux-gnu") && glibc().is_some_and(|version| version >= (2, 36)) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of the C library: since 2.36 it reads packed relocations.
fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?.stdout;
    let (major, minor) = str::from_utf8(&said).ok()?.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
