//! Where a browser may be sent after a sign-in (SEC-40): a path of this service, or a program on the same machine.

use url::{Host, Url};

const LONGEST: usize = 2048;

/// A path of this service with its query, or `None` if it may lead elsewhere.
pub fn local_path(text: &str) -> Option<&str> {
    let acts = |byte: u8| byte <= b' ' || byte == b'\\' || byte == 0x7f || !byte.is_ascii();
    if text.len() > LONGEST || text.bytes().any(acts) {
        return None;
    }
    if !text.starts_with('/') || text.starts_with("//") {
        return None;
    }
    // As a browser would read it, it stays at this origin; so do the segments that it takes away.
    let base = Url::parse("https://service.invalid/").ok()?;
    let read = base.join(text).ok()?;
    (read.origin() == base.origin() && !read.path().starts_with("//")).then_some(text)
}

/// The address at which a program of the same machine waits for its code (RFC 8252, 7.3): plain http, a loopback
/// address spelled as one, a port, and nothing that could be mistaken for a part of the answer.
pub fn loopback(text: &str) -> Option<Url> {
    if text.len() > LONGEST || !text.is_ascii() {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let literal = match url.host()? {
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
        Host::Domain(_) => false,
    };
    let plain = url.scheme() == "http"
        && url.port().is_some()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    // What was written is what is meant: no spelling that only the parser takes for a loopback address.
    (literal && plain && url.as_str() == text).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_path_stays_here() {
        for good in [
            "/",
            "/keys",
            "/device?user_code=BCDF-GHJK",
            "/login/cli?redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2Fc",
        ] {
            assert_eq!(local_path(good), Some(good));
        }
        for bad in [
            "",
            "keys",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "\\/evil.example",
            "/\t/evil.example",
            "/\n/evil.example",
            "/%0d%0aSet-Cookie: a=b\r\n",
            "https://evil.example/",
            "javascript:alert(1)",
            "/..//evil.example",
            "/.//evil.example",
            "/a/../..//evil.example",
            " /keys",
            "/ä",
            "/\u{0}",
        ] {
            assert_eq!(local_path(bad), None, "{bad:?}");
        }
        assert_eq!(local_path(&format!("/{}", "a".repeat(3000))), None);
    }

    #[test]
    fn a_program_waits_at_a_loopback_address_and_nowhere_else() {
        for good in
            ["http://127.0.0.1:8123/callback", "http://[::1]:8123/callback", "http://127.0.0.2:1/"]
        {
            assert!(loopback(good).is_some(), "{good}");
        }
        for bad in [
            "http://localhost:8123/callback",
            "http://127.0.0.1/callback",
            "https://127.0.0.1:8123/callback",
            "http://127.0.0.1:8123/callback?x=y",
            "http://127.0.0.1:8123/callback#x",
            "http://user@127.0.0.1:8123/callback",
            "http://127.0.0.1.evil.example:8123/callback",
            "http://evil.example:8123/callback",
            "http://0x7f000001:8123/callback",
            "http://2130706433:8123/callback",
            "http://127.1:8123/callback",
            "http://0.0.0.0:8123/callback",
            "http://169.254.169.254:80/callback",
            "http://[::ffff:127.0.0.1]:8123/callback",
            "http://127.0.0.1:8123\\@evil.example/callback",
            "javascript:alert(1)",
            "",
        ] {
            assert!(loopback(bad).is_none(), "{bad}");
        }
    }
}
