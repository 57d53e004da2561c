//! Which line of a text a record is on. The reader of CSV counts too, but starts a record at the blank lines before it.

use csv::StringRecord;

pub struct Lines<'a> {
    text: &'a [u8],
    /// Where counting has come to, and the line there.
    at: usize,
    line: u64,
}

impl<'a> Lines<'a> {
    pub fn of(text: &'a [u8]) -> Self {
        Self { text, at: 0, line: 1 }
    }

    /// The line that counting has come to.
    pub fn now(&self) -> u64 {
        self.line
    }

    /// The line on which a record begins. To be asked in the order of the text.
    pub fn begin(&mut self, record: &StringRecord) -> u64 {
        let byte = record.position().and_then(|position| usize::try_from(position.byte()).ok());
        let byte = byte.unwrap_or(self.at);
        let rest = self.text.get(byte..).unwrap_or_default();
        let blank = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        self.at(byte + blank)
    }

    /// The line of a byte. To be asked in the order of the text.
    pub fn at(&mut self, byte: usize) -> u64 {
        let passed = self.text.get(self.at..byte).unwrap_or_default();
        let next = passed.iter().skip(1).chain(self.text.get(byte));
        let next = next.map(Some).chain([None]);
        let ends = passed.iter().zip(next).filter(|(byte, next)| match byte {
            b'\n' => true,
            b'\r' => *next != Some(&b'\n'),
            _ => false,
        });
        self.line += u64::try_from(ends.count()).unwrap_or(u64::MAX);
        self.at = self.at.max(byte);
        self.line
    }
}
