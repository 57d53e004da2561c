//! E-mail addresses as a rule may trust them: plain ASCII, one `@`, a domain of letters, digits and dashes. Homographs,
//! quoted parts and trailing dots are no addresses here (SEC-37).

/// The local part and the domain, in lower case.
pub fn parse(text: &str) -> Option<(String, String)> {
    let (local, domain) = text.split_once('@')?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&byte);
    let sound = (1..=64).contains(&local.len())
        && local.bytes().all(plain)
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..");
    let sound = sound && text.len() <= 254 && is_domain(domain);
    sound.then(|| (local.to_ascii_lowercase(), domain.to_ascii_lowercase()))
}

/// Whether a text is a domain of at least two labels.
pub fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.contains('.') && text.split('.').all(label)
}

/// The domains whose people may sign in; none = all.
#[derive(Debug, Clone, Default)]
pub struct AllowedDomains(Vec<String>);

impl AllowedDomains {
    pub fn new(written: &[String]) -> Self {
        Self(written.iter().map(|domain| domain.to_ascii_lowercase()).collect())
    }

    /// Whether there is no rule.
    pub fn any(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an address is of one of the domains; `*.example.com` is any of its sub-domains, and not itself.
    pub fn admit(&self, address: &str) -> bool {
        let Some((_, domain)) = parse(address) else { return false };
        self.any()
            || self.0.iter().any(|allowed| match allowed.strip_prefix('*') {
                Some(suffix) => domain.len() > suffix.len() && domain.ends_with(suffix),
                None => domain == *allowed,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_plain_shape() {
        for good in ["a@example.com", "A.b+c@Example.COM", "o'neill@sub.example.co"] {
            assert!(parse(good).is_some(), "{good}");
        }
        assert_eq!(parse("A@Example.COM").unwrap(), ("a".into(), "example.com".into()));
        for bad in [
            "",
            "@",
            "a@",
            "@example.com",
            "a@example",
            "a@example.com.",
            "a@.example.com",
            "a@example..com",
            "a@evil.example@example.com",
            "a@ex\u{430}mple.com",
            "a@example.com\n",
            "a @example.com",
            "\"a\"@example.com",
            "a@[127.0.0.1]",
            "a..b@example.com",
            ".a@example.com",
            "a@-example.com",
            "a@example.com,b@example.com",
            "a@example.com\0",
        ] {
            assert!(parse(bad).is_none(), "{bad:?}");
        }
        assert!(parse(&format!("{}@example.com", "a".repeat(65))).is_none());
        assert!(parse(&format!("a@{}.com", "a".repeat(260))).is_none());
    }

    #[test]
    fn a_domain_admits_itself_and_a_star_its_sub_domains() {
        let allowed = AllowedDomains::new(&["Example.com".into(), "*.corp.example".into()]);
        for (address, admitted) in [
            ("a@example.com", true),
            ("a@EXAMPLE.com", true),
            ("a@sub.example.com", false),
            ("a@notexample.com", false),
            ("a@example.com.evil.org", false),
            ("a@x.corp.example", true),
            ("a@y.x.corp.example", true),
            ("a@corp.example", false),
            ("a@evilcorp.example", false),
            ("a@evil.org@example.com", false),
        ] {
            assert_eq!(allowed.admit(address), admitted, "{address}");
        }
        assert!(AllowedDomains::default().admit("a@b.example"));
        assert!(!AllowedDomains::default().admit("no address"));
    }
}
