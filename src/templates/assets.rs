//! Files that pages load, compiled in. Each has a name with its digest in it, so that browsers may keep it for ever, and is
//! compressed once, when it is first asked for that way.

use std::{
    io::Write,
    sync::{LazyLock, OnceLock},
};

use aws_lc_rs::digest;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

/// A file, as browsers are given it.
pub struct Asset {
    name: &'static str,
    pub kind: &'static str,
    pub content: &'static [u8],
    /// The beginning of its SHA-256, in hex.
    pub tag: String,
    url: String,
    gzipped: OnceLock<Option<Bytes>>,
}

macro_rules! assets {
    ($($path:literal as $kind:literal,)*) => {
        static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
            vec![$(Asset::new($path, $kind, include_bytes!(concat!("../../static/", $path))),)*]
        });
    };
}
assets! {
    "app.css" as "text/css; charset=utf-8",
    "app.js" as "text/javascript; charset=utf-8",
    "docs.css" as "text/css; charset=utf-8",
    "docs.js" as "text/javascript; charset=utf-8",
    "follow.js" as "text/javascript; charset=utf-8",
    "icon.svg" as "image/svg+xml",
    // Others' work, as it is published; swagger-ui/README.md says of what.
    "swagger-ui/swagger-ui-bundle.js" as "text/javascript; charset=utf-8",
    "swagger-ui/swagger-ui.css" as "text/css; charset=utf-8",
}

impl Asset {
    fn new(path: &'static str, kind: &'static str, content: &'static [u8]) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        let tag = digest::digest(&digest::SHA256, content);
        let tag = hex::encode(&tag.as_ref()[..8]);
        let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
        let url = format!("/static/{stem}.{tag}.{extension}");
        Self { name, kind, content, tag, url, gzipped: OnceLock::new() }
    }

    /// It in gzip, if that is shorter. The first call makes it, which takes a moment for a large file:
    /// [`Self::is_gzipped`] says whether it is made.
    pub fn gzipped(&self) -> Option<Bytes> {
        self.gzipped.get_or_init(|| gzip(self.content)).clone()
    }

    /// Whether [`Self::gzipped`] answers at once.
    pub fn is_gzipped(&self) -> bool {
        self.gzipped.get().is_some()
    }
}

fn gzip(content: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(content).and_then(|()| encoder.finish());
    written.ok().filter(|shorter| shorter.len() < content.len()).map(Bytes::from)
}

/// Where a file is, by its plain name.
pub fn url(name: &str) -> &'static str {
    ASSETS.iter().find(|asset| asset.name == name).map_or("", |asset| &asset.url)
}

/// The file that a name in a URL means, and whether the digest in it is the file's. Pages of another release have other
/// digests; while releases change, they are better served with this one's files than with none.
pub fn find(file: &str) -> Option<(&'static Asset, bool)> {
    let mut parts = file.split('.');
    let (stem, second, third) = (parts.next()?, parts.next()?, parts.next());
    let (tag, extension) = match (third, parts.next()) {
        (Some(extension), None) => (Some(second), extension),
        (None, None) => (None, second),
        _ => return None,
    };
    let is_tag = |tag: &str| tag.len() == 16 && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return None;
    }
    let asset =
        ASSETS.iter().find(|asset| asset.name.split_once('.') == Some((stem, extension)))?;
    Some((asset, tag == Some(asset.tag.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_by_its_names_and_no_other() {
        let file = url("app.css").strip_prefix("/static/").unwrap();
        assert!(find(file).is_some_and(|(asset, current)| asset.name == "app.css" && current));
        assert!(find("app.css").is_some_and(|(_, current)| !current));
        assert!(find("app.0123456789abcdef.css").is_some_and(|(_, current)| !current));
        for file in
            ["", "app", "app.", ".css", "app.x.css", "app.0123456789abcdef.x.css", "../app.css"]
        {
            assert!(find(file).is_none(), "{file}");
        }
    }

    #[test]
    fn every_file_that_a_template_names_is_there() {
        for entry in std::fs::read_dir("src/templates").unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "html") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for rest in text.split("assets::url(\"").skip(1) {
                let name = rest.split('"').next().unwrap();
                assert!(!url(name).is_empty(), "{name} in {}", path.display());
            }
        }
    }
}
