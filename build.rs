//! Compresses the script that draws the dashboard's charts, so that the program carries it as it is sent; has glibc's
//! allocator told how to give memory back; and has the program's table of addresses packed where it can be.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;

/// What stands around a script in the text that plotly's crate gives.
const BEFORE: &str = "<script type=\"text/javascript\">";
const AFTER: &str = "</script>";
/// What plotly's script begins with, licence included.
const BANNER: &str = "/**\n* plotly.js v";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let sources = plotly::Plot::offline_js_sources();
    // The first of two; the other sets formulas, and there are none here.
    let script = sources.strip_prefix(BEFORE).ok_or("plotly's script begins otherwise")?;
    let (script, _) = script.split_once(AFTER).ok_or("plotly's script does not end")?;
    if !script.starts_with(BANNER) {
        return Err("the first script of plotly's crate is not plotly.js".into());
    }
    let place = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo names no place")?);
    let mut file = GzEncoder::new(Vec::new(), Compression::best());
    file.write_all(script.as_bytes())?;
    std::fs::write(place.join("plotly.js.gz"), file.finish()?)?;
    let is = |name, value| std::env::var(name).is_ok_and(|told| told == value);
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo::rerun-if-changed=src/allocator.c");
        for object in cc::Build::new().file("src/allocator.c").try_compile_intermediates()? {
            println!("cargo::rustc-link-arg-bins={}", object.display());
        }
    }
    if loads_packed_relocations() {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    Ok(())
}

/// glibc's loader reads packed relative relocations from this version on.
const PACKED_FROM: (u32, u32) = (2, 36);

/// Whether the loader of the program reads packed relative relocations: 50,000 addresses in a few KiB instead of 24 bytes
/// each, all of which are read, and so resident, at every start. Known only of the machine that builds, if it is to run there.
fn loads_packed_relocations() -> bool {
    let of = |name| std::env::var(name).unwrap_or_default();
    if of("HOST") != of("TARGET")
        || of("CARGO_CFG_TARGET_OS") != "linux"
        || of("CARGO_CFG_TARGET_ENV") != "gnu"
    {
        return false;
    }
    let Ok(told) = Command::new("getconf").arg("GNU_LIBC_VERSION").output() else { return false };
    let told = String::from_utf8_lossy(&told.stdout);
    let version = told.trim().strip_prefix("glibc ").and_then(|version| version.split_once('.'));
    version.is_some_and(|(major, minor)| {
        major.parse().ok().zip(minor.parse().ok()).is_some_and(|version: (u32, u32)| version >= PACKED_FROM)
    })
}
