//! Compresses the script that draws the dashboard's charts, so that the program carries it as it is sent; has glibc's
//! allocator told how to give memory back; has the program's table of addresses packed where it can be; and has the functions that
//! `run` calls put next to each other.

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
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
    lay_out(&place)?;
    Ok(())
}

/// Which functions lie next to each other.
const LAYOUT: &str = "src/layout.ld";

/// Has the linker read that script in a build that is optimised, where it is one that can: GNU's and LLVM's can, gold and mold cannot.
/// What each of the two has for lists of names, the other does not read, and none of it takes names without their hashes.
/// `NO_LAYOUT=1` leaves it out.
fn lay_out(place: &Path) -> Result<(), Box<dyn Error>> {
    let of = |name| std::env::var(name).unwrap_or_default();
    println!("cargo::rerun-if-changed={LAYOUT}");
    println!("cargo::rerun-if-env-changed=NO_LAYOUT");
    // Of another one named in a configuration file a build finds out only when it begins anew.
    let target = of("TARGET").to_uppercase().replace(['-', '.'], "_");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_{target}_LINKER");
    let root = std::env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo names no folder")?;
    let Some(layout) = Path::new(&root).join(LAYOUT).to_str().map(str::to_owned) else { return Ok(()) };
    let is_of_use =
        of("CARGO_CFG_TARGET_OS") == "linux" && of("OPT_LEVEL") != "0" && of("NO_LAYOUT").is_empty();
    if !is_of_use {
        return Ok(());
    }
    if let Err(why) = links(place, &layout) {
        println!("cargo::warning=without {LAYOUT}, 2 to 5 MiB more stay resident: {why}");
        return Ok(());
    }
    if !names_are_v0() {
        println!(
            "cargo::warning={LAYOUT} knows functions by names of -Csymbol-mangling-version=v0, which RUSTFLAGS lack"
        );
    }
    // Two words: a comma in a path would part what stands behind `-Wl`.
    println!("cargo::rustc-link-arg-bins=-T");
    println!("cargo::rustc-link-arg-bins={layout}");
    Ok(())
}

/// Whether functions are named as that script names them.
fn names_are_v0() -> bool {
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    // rustc's own choice from 1.97 on.
    let told = std::env::var_os("RUSTC").and_then(|rustc| Command::new(rustc).arg("--version").output().ok());
    let minor = told.and_then(|told| {
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        told.strip_prefix("rustc 1.")?.split('.').next()?.parse::<u32>().ok()
    });
    flags.contains("symbol-mangling-version=v0") || minor.is_none_or(|minor| minor >= 97)
}

/// Links a program of nothing by that script.
///
/// # Errors
/// What the linker has against it, in one line.
fn links(place: &Path, layout: &str) -> Result<(), Box<dyn Error>> {
    let of = |name| std::env::var(name).unwrap_or_default();
    let nothing = place.join("nothing.rs");
    std::fs::write(&nothing, "fn main() {}\n")?;
    let mut trial = Command::new(std::env::var_os("RUSTC").ok_or("cargo names no compiler")?);
    trial.arg(nothing).arg("-o").arg(place.join("nothing")).args(["--target", &of("TARGET")]);
    trial.args(of("CARGO_ENCODED_RUSTFLAGS").split('\u{1f}').filter(|flag| !flag.is_empty()));
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        let mut chosen = OsString::from("linker=");
        chosen.push(linker);
        trial.arg("-C").arg(chosen);
    }
    trial.args(["-Clink-arg=-T", &format!("-Clink-arg={layout}")]);
    let told = trial.output()?;
    if told.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&told.stderr);
    // The linker's own word of the script, not the command that is told with it.
    let why = said.lines().find(|line| line.contains(layout) && !line.contains("\"-T\""));
    let why = why.unwrap_or("a program of nothing does not link with it").trim();
    Err(why.trim_start_matches("= note: ").into())
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
