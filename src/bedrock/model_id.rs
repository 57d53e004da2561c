//! The model a call names: read from the raw path, checked, and written back as one path segment; and what the text of an
//! id says of its inference profile and foundation model.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Everything but the unreserved characters of RFC 3986 is encoded, so that what is signed is what is sent.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const LONGEST: usize = 2048;

/// What inference profiles put before the id of a model, with a dot.
pub const PREFIXES: [&str; 9] = ["us", "eu", "apac", "jp", "au", "global", "us-gov", "ca", "sa"];

/// A Bedrock model id or ARN: 1 to 2048 bytes of `[A-Za-z0-9.:_/-]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelId {
    text: String,
    /// The region in an ARN.
    region: Option<String>,
}

/// What ARNs may name.
#[derive(Debug, Clone)]
pub struct ArnRules {
    /// `aws`, `aws-us-gov` or `aws-cn`.
    pub partition: &'static str,
    /// Regions that are configured.
    pub regions: Vec<String>,
    /// Account numbers; empty = any.
    pub accounts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelIdError {
    #[error("the model id in the path is empty")]
    Empty,
    #[error("the model id is longer than {LONGEST} bytes")]
    TooLong,
    #[error("the model id is not valid percent-encoded text")]
    Encoding,
    #[error(
        "the model id holds a character that Bedrock ids do not have; they are letters, digits and . : _ - \
         (in an ARN also /)"
    )]
    Character,
    #[error(
        "the model ARN is malformed: arn:{{partition}}:bedrock:{{region}}:{{account}}:{{type}}/{{id}}"
    )]
    Arn,
    #[error("the model ARN is of another partition than this service's region")]
    Partition,
    #[error("the region of the model ARN is not configured here (aws.region, aws.regions)")]
    Region,
    #[error("the account of the model ARN is not allowed here (aws.allowed_accounts)")]
    Account,
}

impl ModelId {
    /// Reads the label between `/model/` and the operation, as it stood on the wire. It is decoded exactly once; a
    /// raw `/` is accepted inside an ARN.
    ///
    /// # Errors
    /// [`ModelIdError`], before anything is signed (SEC-64).
    pub fn from_label(label: &str, rules: &ArnRules) -> Result<Self, ModelIdError> {
        if label.is_empty() {
            return Err(ModelIdError::Empty);
        }
        if label.len() > 3 * LONGEST {
            return Err(ModelIdError::TooLong);
        }
        // `%` must be followed by two digits: the decoder would let anything else stand.
        let mut escapes = label.split('%').skip(1);
        let hex = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
        if !escapes.all(hex) {
            return Err(ModelIdError::Encoding);
        }
        let text = percent_decode_str(label).decode_utf8().map_err(|_| ModelIdError::Encoding)?;
        Self::parse(&text, rules)
    }

    /// Checks decoded text.
    ///
    /// # Errors
    /// [`ModelIdError`].
    pub fn parse(text: &str, rules: &ArnRules) -> Result<Self, ModelIdError> {
        if text.is_empty() {
            return Err(ModelIdError::Empty);
        }
        if text.len() > LONGEST {
            return Err(ModelIdError::TooLong);
        }
        let region = if text.starts_with("arn:") {
            Some(check_arn(text, rules)?)
        } else {
            let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
            if !first || !text.bytes().all(is_id_byte) {
                return Err(ModelIdError::Character);
            }
            None
        };
        Ok(Self { text: text.to_owned(), region })
    }

    /// As [`ModelId::parse`], with an ARN of any partition, region and account: settings are read before the
    /// service's own region is known.
    ///
    /// # Errors
    /// [`ModelIdError`].
    pub fn parse_anywhere(text: &str) -> Result<Self, ModelIdError> {
        let mut fields = text.split(':').skip(1);
        let named = fields.next().unwrap_or_default();
        let partition = ["aws", "aws-us-gov", "aws-cn"].into_iter().find(|known| *known == named);
        let region = fields.nth(1).unwrap_or_default().to_owned();
        if text.starts_with("arn:") && (partition.is_none() || region.is_empty()) {
            return Err(ModelIdError::Arn);
        }
        let partition = partition.unwrap_or_default();
        Self::parse(text, &ArnRules { partition, regions: vec![region], accounts: Vec::new() })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The region that an ARN names; `None` = the configured one.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// One path segment, percent-encoded with upper-case digits.
    pub fn encoded(&self) -> String {
        utf8_percent_encode(&self.text, SEGMENT).to_string()
    }
}

fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b':' | b'_' | b'-')
}

/// Checks `arn:partition:bedrock:region:account:type/id`; answers the region.
fn check_arn(text: &str, rules: &ArnRules) -> Result<String, ModelIdError> {
    if !text.bytes().all(|byte| is_id_byte(byte) || byte == b'/') {
        return Err(ModelIdError::Character);
    }
    let mut fields = text.splitn(6, ':').skip(1);
    let mut field = || fields.next().ok_or(ModelIdError::Arn);
    let (partition, service, region, account, resource) =
        (field()?, field()?, field()?, field()?, field()?);
    if service != "bedrock" {
        return Err(ModelIdError::Arn);
    }
    if partition != rules.partition {
        return Err(ModelIdError::Partition);
    }
    let (kind, id) = resource.split_once('/').ok_or(ModelIdError::Arn)?;
    let segments_sound = id.split('/').all(|part| !part.is_empty() && !matches!(part, "." | ".."));
    if kind.is_empty() || kind.contains(':') || !segments_sound {
        return Err(ModelIdError::Arn);
    }
    if !rules.regions.iter().any(|known| known == region) {
        return Err(ModelIdError::Region);
    }
    let number = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    // A foundation model belongs to no account; nor does `aws`, which owns default prompt routers.
    let shared = account.is_empty() || account == "aws";
    if !number && !shared {
        return Err(ModelIdError::Arn);
    }
    if number && !rules.accounts.is_empty() && !rules.accounts.iter().any(|known| known == account)
    {
        return Err(ModelIdError::Account);
    }
    Ok(region.to_owned())
}

/// The id without the prefix of an inference profile, if what is left begins with a provider.
pub fn without_prefix(id: &str) -> &str {
    match id.split_once('.') {
        Some((prefix, rest)) if PREFIXES.contains(&prefix) && has_provider(rest) => rest,
        _ => id,
    }
}

/// The foundation model of an id or ARN; an ARN that does not say what it runs is itself.
pub fn foundation(id: &str) -> &str {
    let resource = id.starts_with("arn:").then(|| id.splitn(6, ':').nth(5));
    match resource.flatten().and_then(|resource| resource.split_once('/')) {
        Some(("foundation-model" | "inference-profile", model)) => {
            without_prefix(model.rsplit('/').next().unwrap_or(model))
        }
        _ => without_prefix(id), // which finds no prefix in an ARN
    }
}

/// Whether an id begins with `provider.`, whoever that is.
fn has_provider(id: &str) -> bool {
    id.split_once('.').is_some_and(|(provider, model)| {
        provider.starts_with(|first: char| first.is_ascii_lowercase())
            && provider.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            && !model.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules() -> ArnRules {
        ArnRules {
            partition: "aws",
            regions: vec!["us-east-1".into(), "eu-west-1".into()],
            accounts: vec!["123456789012".into()],
        }
    }

    fn read(label: &str) -> Result<ModelId, ModelIdError> {
        ModelId::from_label(label, &rules())
    }

    #[test]
    fn ids_come_raw_or_encoded_and_leave_encoded_once() {
        let raw = read("us.anthropic.claude-sonnet-4-20250514-v1:0").unwrap();
        let encoded = read("us.anthropic.claude-sonnet-4-20250514-v1%3A0").unwrap();
        assert_eq!(raw, encoded);
        assert_eq!(raw.encoded(), "us.anthropic.claude-sonnet-4-20250514-v1%3A0");
    }

    #[test]
    fn arns_come_with_any_spelling_and_leave_as_one_segment() {
        let id = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.claude-3-haiku-20240307-v1:0";
        let sent = "arn%3Aaws%3Abedrock%3Aeu-west-1%3A123456789012%3Ainference-profile%2Feu.anthropic.claude-3-haiku-20240307-v1%3A0";
        for label in [id, sent, &id.replace('/', "%2f")] {
            let read = read(label).unwrap();
            assert_eq!((read.as_str(), read.encoded().as_str()), (id, sent));
            assert_eq!(read.region(), Some("eu-west-1"));
        }
        assert!(read("arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-v2:1").is_ok());
    }

    #[test]
    fn everything_else_is_refused() {
        use ModelIdError::{Account, Arn, Character, Empty, Encoding, Partition, Region, TooLong};
        for (label, error) in [
            ("", Empty),
            (".", Character),
            ("..", Character),
            ("../x", Character),
            ("a/b", Character),
            ("a%2Fb", Character),
            ("a%00", Character),
            ("a%20b", Character),
            ("a b", Character),
            ("a%0Ab", Character),
            ("a;b", Character),
            (";b", Character),
            ("é", Character),
            ("%C3%A9", Character),
            ("%FF", Encoding),
            ("%", Encoding),
            ("a%2", Encoding),
            ("a%zz", Encoding),
            ("a%253A0", Character),
            ("a?x", Character),
            ("arn:aws:bedrock:us-east-1:123456789012:x", Arn),
            ("arn:aws:bedrock:us-east-1:123456789012:x/", Arn),
            ("arn:aws:bedrock:us-east-1:123456789012:x/../y", Arn),
            ("arn:aws:bedrock:us-east-1:123456789012:x/./y", Arn),
            ("arn:aws:bedrock:us-east-1:123456789012:x//y", Arn),
            ("arn:aws:bedrock:us-east-1:12345678901:x/y", Arn),
            ("arn:aws:s3:us-east-1:123456789012:x/y", Arn),
            ("arn:aws", Arn),
            ("arn:", Arn),
            ("arn:aws-cn:bedrock:us-east-1:123456789012:x/y", Partition),
            ("arn:aws:bedrock:us-west-2:123456789012:x/y", Region),
            ("arn:aws:bedrock:us-east-1:999999999999:x/y", Account),
        ] {
            assert_eq!(read(label), Err(error), "{label:?}");
        }
        assert_eq!(read(&"a".repeat(2049)), Err(TooLong));
        assert_eq!(read(&"a".repeat(9000)), Err(TooLong));
        assert!(read(&"a".repeat(2048)).is_ok());
    }

    #[test]
    fn settings_may_name_an_arn_of_any_partition_region_and_account() {
        for text in [
            "anthropic.claude-v2:1",
            "arn:aws-cn:bedrock:cn-north-1:999999999999:x/y",
            "arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/anthropic.claude-v2:1",
        ] {
            assert_eq!(ModelId::parse_anywhere(text).unwrap().as_str(), text);
        }
        let region = ModelId::parse_anywhere("arn:aws:bedrock:eu-west-3:999999999999:x/y").unwrap();
        assert_eq!(region.region(), Some("eu-west-3"));
        for text in
            ["arn:", "arn:aws", "arn:aws:bedrock::999999999999:x/y", "arn:x:bedrock:r:1:x/y"]
        {
            assert_eq!(ModelId::parse_anywhere(text), Err(ModelIdError::Arn), "{text}");
        }
        assert_eq!(ModelId::parse_anywhere(""), Err(ModelIdError::Empty));
        assert_eq!(ModelId::parse_anywhere("a b"), Err(ModelIdError::Character));
    }

    proptest! {
        #[test]
        fn no_label_panics_and_what_is_accepted_has_one_safe_segment(label in "\\PC{0,80}") {
            if let Ok(id) = read(&label) {
                let encoded = id.encoded();
                prop_assert!(!encoded.contains(['/', '?', '#', ' ']));
                prop_assert!(encoded != "." && encoded != "..");
                prop_assert_eq!(read(&encoded).unwrap(), id);
            }
        }
    }
}
