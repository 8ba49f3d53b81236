//! The dashboard's files. They are built in, the same for everybody, and tell nothing of what is collected, so they
//! need no token; what the page shows it asks for like any other client.

use std::sync::OnceLock;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse, Responder};
use ring::digest;

use super::routes;
use super::views;

/// A file as it is sent.
struct File {
    /// Its path.
    path: &'static str,
    content_type: &'static str,
    /// How it is compressed.
    encoding: Option<&'static str>,
    bytes: &'static [u8],
    /// What names these bytes, once somebody has asked for them.
    tag: OnceLock<String>,
}

impl File {
    const fn text(path: &'static str, content_type: &'static str, bytes: &'static [u8]) -> File {
        File { path, content_type, encoding: None, bytes, tag: OnceLock::new() }
    }
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// All of them, the page first. No request makes a copy of one.
static FILES: [File; 12] = [
    File::text("/", "text/html; charset=utf-8", include_bytes!("dashboard/page.html")),
    File::text("/assets/page.css", "text/css; charset=utf-8", include_bytes!("dashboard/page.css")),
    File::text("/assets/icon.svg", "image/svg+xml", include_bytes!("dashboard/icon.svg")),
    File::text("/assets/main.js", SCRIPT, include_bytes!("dashboard/main.js")),
    File::text("/assets/api.js", SCRIPT, include_bytes!("dashboard/api.js")),
    File::text("/assets/chart.js", SCRIPT, include_bytes!("dashboard/chart.js")),
    File::text("/assets/events.js", SCRIPT, include_bytes!("dashboard/events.js")),
    File::text("/assets/live.js", SCRIPT, include_bytes!("dashboard/live.js")),
    File::text("/assets/panels.js", SCRIPT, include_bytes!("dashboard/panels.js")),
    File::text("/assets/strip.js", SCRIPT, include_bytes!("dashboard/strip.js")),
    File::text("/assets/words.js", SCRIPT, include_bytes!("dashboard/words.js")),
    // Only as it is compressed: every browser takes it so, and 4.6 MB more would be carried for none.
    File {
        path: "/assets/plotly.js",
        content_type: SCRIPT,
        encoding: Some("gzip"),
        bytes: include_bytes!(concat!(env!("OUT_DIR"), "/plotly.js.gz")),
        tag: OnceLock::new(),
    },
];

fn find(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

/// Whether this path, as a request writes it, is one of the dashboard's files.
pub fn is_part(path: &str) -> bool {
    find(path).is_some()
}

/// `/`.
pub async fn page(request: HttpRequest) -> impl Responder {
    sent(&request, "/")
}

/// `/assets/{name}`.
pub async fn asset(request: HttpRequest, name: Path<String>) -> impl Responder {
    sent(&request, &format!("/assets/{name}"))
}

fn sent(request: &HttpRequest, path: &str) -> HttpResponse {
    let Some(file) = find(path) else {
        return routes::json(StatusCode::NOT_FOUND, &views::error("unknown_file", "there is no such file"));
    };
    let tag = file.tag.get_or_init(|| routes::tag(&digest::digest(&digest::SHA256, file.bytes)));
    // Asked about each time, so that what is shown is never of two versions.
    let mut answer = routes::unless_known(request, header::EntityTag::new_strong(tag.clone()), "no-cache");
    if let Some(encoding) = file.encoding {
        answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    routes::with_body(answer, file.content_type, file.bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn ours() -> impl Iterator<Item = (&'static str, &'static str)> {
        let plain = FILES.iter().filter(|file| file.encoding.is_none());
        plain.map(|file| (file.path, std::str::from_utf8(file.bytes).unwrap()))
    }

    #[test]
    fn what_is_named_is_there_and_what_is_there_is_named() {
        let named: BTreeSet<&str> = ours()
            .flat_map(|(_, text)| text.split('"').filter(|part| part.starts_with("/assets/")))
            .collect();
        let there: BTreeSet<&str> = FILES.iter().map(|file| file.path).filter(|path| *path != "/").collect();
        assert_eq!(named, there);
    }

    #[test]
    fn the_policy_holds_without_a_browser_to_enforce_it() {
        for (path, text) in ours() {
            // A name space is no address.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for forbidden in [
                "://",
                "innerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                " style=",
                " onclick=",
                "<style",
            ] {
                assert!(!text.contains(forbidden), "{path} has {forbidden}");
            }
        }
        let (_, page) = ours().next().unwrap();
        assert!(page.matches("<script").count() == 1 && page.contains("\"></script>"), "scripts are files");
    }

    #[test]
    fn the_script_of_charts_is_whole_and_has_its_licence() {
        let file = find("/assets/plotly.js").unwrap();
        let mut text = String::new();
        GzDecoder::new(file.bytes).read_to_string(&mut text).unwrap();
        assert!(text.starts_with("/**\n* plotly.js v3"), "{}", &text[..80]);
        assert!(text[..400].contains("Licensed under the MIT license"));
        assert!(text.len() > 4_000_000 && file.bytes.len() < 1_500_000);
    }
}
