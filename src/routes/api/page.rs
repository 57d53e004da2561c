//! Which part of a list is asked for.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::routes::error::ApiError;

const MOST_ROWS: i64 = 500;
const MOST_OFFSET: i64 = 10_000;

/// What the query says of pages, checked.
pub struct Page {
    pub limit: i64,
    pub offset: i64,
    /// `next_cursor` of the page before, read.
    pub cursor: Option<String>,
}

impl Page {
    /// # Errors
    /// 400 for what is out of range; nothing is cut to fit (SEC-101).
    pub fn read(
        limit: Option<i64>,
        offset: Option<i64>,
        cursor: Option<&str>,
    ) -> Result<Self, ApiError> {
        let limit = limit.unwrap_or(50);
        if !(1..=MOST_ROWS).contains(&limit) {
            return Err(ApiError::parameter("limit", "limit must be 1 to 500."));
        }
        if cursor.is_some() && offset.is_some() {
            return Err(ApiError::parameter("cursor", "Send offset or cursor, not both."));
        }
        let offset = offset.unwrap_or(0);
        if !(0..=MOST_OFFSET).contains(&offset) {
            let message = "offset must be 0 to 10000; use cursor to go further.";
            return Err(ApiError::parameter("offset", message));
        }
        let decode = |text: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok();
        let cursor = cursor.map(|text| decode(text).ok_or_else(no_cursor)).transpose()?;
        Ok(Self { limit, offset, cursor })
    }

    /// The cursor as an id or a place.
    ///
    /// # Errors
    /// 400 if it is none.
    pub fn number(&self) -> Result<Option<i64>, ApiError> {
        let read = |text: &String| {
            // Far beyond any list, and far from what overflows.
            let number = text.parse::<i64>().ok().filter(|number| (0..=1 << 53).contains(number));
            number.ok_or_else(no_cursor)
        };
        self.cursor.as_ref().map(read).transpose()
    }
}

pub fn no_cursor() -> ApiError {
    ApiError::parameter("cursor", "This is no next_cursor of a page.")
}

/// What the next page begins with, as clients hold it.
pub fn write_cursor(plain: impl std::fmt::Display) -> String {
    URL_SAFE_NO_PAD.encode(plain.to_string())
}
