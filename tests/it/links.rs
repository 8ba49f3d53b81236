//! The documents: every link of theirs to a file or a heading leads somewhere.

use std::collections::BTreeSet;
use std::path::Path;

/// Where a heading can be linked to: small letters, digits and hyphens, as code hosts make them.
fn anchor(heading: &str) -> String {
    let letters = heading.trim().to_lowercase().replace(' ', "-");
    letters.chars().filter(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect()
}

/// The lines of a document outside its blocks of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let fence = line.starts_with("```");
        is_code ^= fence;
        !is_code && !fence
    })
}

/// What a line's links lead to.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(to, _)| to)
}

/// Links of a document, next to which `path` is, that lead nowhere.
fn broken(path: &Path, text: &str) -> Vec<String> {
    let leads_somewhere = |link: &str| {
        if link.starts_with("https://") {
            return true;
        }
        let (file, heading) =
            link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
        let place = path.parent().expect("a document is in a folder").join(file);
        let other =
            if file.is_empty() { Some(text.to_owned()) } else { std::fs::read_to_string(&place).ok() };
        match (heading, other) {
            (None, _) => place.exists(),
            (Some(heading), Some(other)) => {
                let headings = prose(&other).filter(|line| line.starts_with('#'));
                headings
                    .map(|line| anchor(line.trim_start_matches('#')))
                    .collect::<BTreeSet<_>>()
                    .contains(heading)
            }
            (Some(_), None) => false,
        }
    };
    prose(text).flat_map(links).filter(|link| !leads_somewhere(link)).map(str::to_owned).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let documents = documents.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let top = ["README.md", "ARCHITECTURE.md", "BENCHMARKS.md", "CHANGELOG.md"].map(|name| root.join(name));
    let mut seen = 0;
    for path in documents.chain(top) {
        let text = std::fs::read_to_string(&path).unwrap();
        seen += prose(&text).flat_map(links).count();
        assert_eq!(broken(&path, &text), [""; 0], "{}", path.display());
    }
    assert!(seen > 30, "{seen} links");
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = "# A title, of mine\n[a](#a-title-of-mine) [b](#b) [c](docs/none.md) [d](CHANGELOG.md#none) [e](docs/)\n```\n[f](#f)\n```\n";
    assert_eq!(broken(&path, text), ["#b", "docs/none.md", "CHANGELOG.md#none"]);
}
