//! Values in this process's memory, bounded by number and by bytes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::{Expiry, future::Cache, ops::compute::Op};

/// What an entry takes besides its key and value, about.
const OVERHEAD: usize = 200;

#[derive(Clone)]
pub struct Memory {
    entries: Cache<String, Entry>,
}

#[derive(Clone)]
struct Entry {
    bytes: Bytes,
    ends: Instant,
}

struct AtItsEnd;

impl Expiry<String, Entry> for AtItsEnd {
    fn expire_after_create(&self, _: &String, entry: &Entry, now: Instant) -> Option<Duration> {
        Some(entry.ends.saturating_duration_since(now))
    }

    fn expire_after_update(
        &self,
        _: &String,
        entry: &Entry,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.ends.saturating_duration_since(now))
    }
}

impl Memory {
    /// At most so many entries, and so many bytes together with their keys.
    pub fn new(most_entries: u64, most_bytes: u64) -> Self {
        // One bound does for both: no entry counts for less than its share.
        let share = most_bytes / most_entries.max(1);
        let weigh = move |key: &String, entry: &Entry| {
            let bytes = (key.len() + entry.bytes.len() + OVERHEAD) as u64;
            u32::try_from(bytes.max(share)).unwrap_or(u32::MAX)
        };
        let entries =
            Cache::builder().max_capacity(most_bytes).weigher(weigh).expire_after(AtItsEnd);
        Self { entries: entries.build() }
    }

    pub async fn get(&self, key: &str) -> Option<Bytes> {
        self.entries.get(key).await.map(|entry| entry.bytes)
    }

    pub async fn put(&self, key: String, bytes: Bytes, lives: Duration) {
        self.entries.insert(key, Entry { bytes, ends: Instant::now() + lives }).await;
    }

    /// Adds one; a count that is new lives so long, whatever is added to it.
    pub async fn increment(&self, key: String, lives: Duration) -> u64 {
        let more = |entry: Option<moka::Entry<String, Entry>>| {
            let (count, ends) = match entry.map(moka::Entry::into_value) {
                Some(entry) => (read(&entry.bytes).saturating_add(1), entry.ends),
                None => (1, Instant::now() + lives),
            };
            let bytes = Bytes::copy_from_slice(&count.to_be_bytes());
            std::future::ready(Op::Put(Entry { bytes, ends }))
        };
        let counted = self.entries.entry(key).and_compute_with(more).await;
        counted.into_entry().map_or(0, |entry| read(&entry.into_value().bytes))
    }

    /// Entries, and their bytes, about.
    pub fn size(&self) -> (u64, u64) {
        (self.entries.entry_count(), self.entries.weighted_size())
    }

    /// Does what is due: forgets what has ended or is too much.
    pub async fn tidy(&self) {
        self.entries.run_pending_tasks().await;
    }
}

fn read(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn it_is_bounded_by_number_and_by_bytes() {
        for (most_entries, most_bytes, size) in [(100, 1 << 20, 10), (1_000_000, 1 << 20, 10_000)] {
            let memory = Memory::new(most_entries, most_bytes);
            for number in 0..2_000 {
                memory.put(format!("key {number}"), vec![7; size].into(), HOUR).await;
            }
            memory.tidy().await;
            let (entries, bytes) = memory.size();
            assert!(entries > 0 && entries <= most_entries, "{entries}");
            assert!(bytes <= most_bytes, "{bytes}");
        }
    }

    #[tokio::test]
    async fn counting_loses_nothing_and_prolongs_nothing() {
        let memory = Memory::new(100, 1 << 20);
        let mut counts = join_all((0..500).map(|_| memory.increment("a".to_owned(), HOUR))).await;
        counts.sort_unstable();
        assert_eq!(counts, (1..=500).collect::<Vec<u64>>());

        let ends = |memory: &Memory| {
            let memory = memory.clone();
            async move { memory.entries.get("a").await.unwrap().ends }
        };
        let before = ends(&memory).await;
        memory.increment("a".to_owned(), HOUR * 2).await;
        assert_eq!(ends(&memory).await, before);
        assert_eq!(memory.increment("b".to_owned(), HOUR).await, 1, "each key by itself");
    }

    #[tokio::test]
    async fn what_has_ended_is_gone() {
        let memory = Memory::new(100, 1 << 20);
        memory.put("a".to_owned(), Bytes::from_static(b"x"), Duration::ZERO).await;
        assert_eq!(memory.get("a").await, None);
        assert_eq!(memory.increment("b".to_owned(), Duration::ZERO).await, 1);
        assert_eq!(memory.increment("b".to_owned(), Duration::ZERO).await, 1);
    }
}
