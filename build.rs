//! Compresses the script that draws the dashboard's charts, so that the program carries it as it is sent.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

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
    Ok(())
}
