use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use futures_util::FutureExt;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    record::{Record, decode, encode},
    recovery::{Orphan, Recovered},
    *,
};

/// More than any test writes.
const PLENTY: u64 = 1 << 30;
/// The least that `usage.journal_max_bytes` may be.
const LEAST: u64 = 16 << 20;

/// A place for journals, and what a process has open in it.
struct Process {
    directory: Arc<Directory>,
    journal: Rc<Journal>,
}

impl Drop for Process {
    /// However a process ends, the system takes its lock away.
    fn drop(&mut self) {
        self.directory.leave();
    }
}

impl Process {
    fn start(path: &Path, max_bytes: u64) -> Self {
        let directory = Directory::open(path, max_bytes).unwrap();
        let journal = worker(&directory, 0);
        Self { directory, journal }
    }

    fn open_and_close(&self, row: &NewUsage) -> Receipt {
        let slot = self.journal.open(row).unwrap();
        self.journal.close(slot, &closed(row))
    }

    fn current(&self) -> Arc<Segment> {
        self.journal.file.borrow().as_ref().unwrap().segment.clone()
    }
}

fn worker(directory: &Arc<Directory>, number: usize) -> Rc<Journal> {
    Journal::new(Some(directory.clone()), number, Fsync::Interval, OnFull::Strict)
}

/// A call as it is when it is opened.
fn row(call_id: &str) -> NewUsage {
    NewUsage {
        call_id: call_id.to_owned(),
        user_id: 7,
        endpoint_type: "bedrock".to_owned(),
        operation: "invoke".to_owned(),
        model_id: "anthropic.claude".to_owned(),
        outcome: "interrupted".to_owned(),
        ..NewUsage::default()
    }
}

/// The same call when it has ended.
fn closed(row: &NewUsage) -> NewUsage {
    NewUsage {
        input_tokens: Some(12),
        output_tokens: Some(36),
        status: Some(200),
        outcome: "success".to_owned(),
        stop_reason: Some("end_turn".to_owned()),
        ..row.clone()
    }
}

/// A call whose records are long, so that a segment is full after some tens of them.
fn long_row(call_id: &str) -> NewUsage {
    NewUsage { error_message: Some("x".repeat(60_000)), ..row(call_id) }
}

/// Lets go of a row in memory; the segment in which it is closed.
fn spill(receipt: Receipt) -> Arc<Segment> {
    receipt.closed.clone().unwrap()
}

fn tokens(input: i64, output: i64) -> TokenCounts {
    TokenCounts { input: Some(input), output: Some(output), ..TokenCounts::default() }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The files in a directory whose names end so, in order.
fn files(path: &Path, end: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.to_str().unwrap().ends_with(end)).collect();
    files.sort();
    files
}

fn read_records(path: &Path) -> (Vec<Record>, usize) {
    decode(&std::fs::read(path).unwrap())
}

fn orphans(directory: &Directory) -> Vec<Orphan> {
    recovery::orphans(directory).unwrap()
}

/// What another process finds after those before it died; the rows by call.
fn recover(path: &Path) -> (BTreeMap<String, NewUsage>, usize) {
    let directory = Directory::open(path, PLENTY).unwrap();
    let mut rows = BTreeMap::new();
    let mut damaged = 0;
    for orphan in orphans(&directory) {
        let found = orphan.read().unwrap();
        damaged += found.damaged;
        for row in found.rows {
            let id = row.call_id.clone();
            assert_eq!(rows.insert(id, row), None, "a call has one row");
        }
    }
    directory.remove_all();
    (rows, damaged)
}

fn interrupted(row: &NewUsage, used: TokenCounts) -> NewUsage {
    NewUsage {
        input_tokens: used.input,
        output_tokens: used.output,
        cache_write_tokens: used.cache_write,
        cache_write_1h_tokens: used.cache_write_1h,
        cache_read_tokens: used.cache_read,
        outcome: "interrupted".to_owned(),
        estimated: true,
        ..row.clone()
    }
}

fn encoded(kind: Kind, payload: &impl serde::Serialize) -> Vec<u8> {
    let mut out = vec![9; 40]; // replaced
    encode(kind, payload, &mut out);
    out
}

/// A few records of every kind, and their bytes one by one.
fn sample() -> (Vec<Record>, Vec<Vec<u8>>) {
    let (one, two) = (row("one"), row("two"));
    let progress = Progress { call_id: "one".to_owned(), tokens: tokens(12, 3) };
    let bytes = vec![
        encoded(Kind::Open, &one),
        encoded(Kind::Open, &two),
        encoded(Kind::Progress, &progress),
        encoded(Kind::Close, &closed(&two)),
        encoded(Kind::Close, &closed(&one)),
    ];
    let records = vec![
        Record::Open(one.clone()),
        Record::Open(two.clone()),
        Record::Progress(progress),
        Record::Close(closed(&two)),
        Record::Close(closed(&one)),
    ];
    (records, bytes)
}

// Records

#[test]
fn records_are_read_back_in_order_as_they_were_written() {
    let (records, bytes) = sample();

    assert_eq!(decode(&bytes.concat()), (records, 0));
}

#[test]
fn a_row_with_every_field_is_read_back_whole() {
    let full = NewUsage {
        call_id: "0190a5e8-0000-7000-8000-000000000001".to_owned(),
        user_id: i64::MAX,
        key_id: Some(3),
        endpoint_type: "bedrock".to_owned(),
        operation: "converse_stream".to_owned(),
        model_requested: "eu.anthropic.claude".to_owned(),
        model_id: "anthropic.claude".to_owned(),
        region_requested: Some("eu-west-1".to_owned()),
        region: "eu-central-1".to_owned(),
        request_time: "2026-01-31T23:59:59.123".parse().unwrap(),
        response_time_ms: Some(1234),
        time_to_first_byte_ms: Some(0),
        streamed: true,
        input_tokens: Some(0),
        output_tokens: Some(1 << 40),
        cache_write_tokens: Some(3),
        cache_write_1h_tokens: Some(2),
        cache_read_tokens: Some(1),
        estimated: true,
        outcome: "upstream_error".to_owned(),
        status: Some(424),
        error_code: Some("ModelErrorException".to_owned()),
        error_message: Some("\"quoted\" \\ \u{1f6d1} \u{1} BUJ1".to_owned()),
        upstream_attempts: 3,
        request_id: "r".to_owned(),
        stop_reason: Some("end_turn".to_owned()),
        cost_nano_usd: Some(-1),
        price_id: Some(9),
        upstream_request_id: Some("u".to_owned()),
        client_session_id: Some("s".to_owned()),
        client_agent_id: Some("a".to_owned()),
    };

    let (records, damaged) = decode(&encoded(Kind::Close, &full));

    assert_eq!((records, damaged), (vec![Record::Close(full)], 0));
}

#[test]
fn a_journal_cut_anywhere_gives_the_records_before_and_counts_the_torn_one() {
    let (records, bytes) = sample();
    let whole = bytes.concat();
    let ends: Vec<usize> = bytes
        .iter()
        .scan(0, |end, record| {
            *end += record.len();
            Some(*end)
        })
        .collect();
    for at in 0..whole.len() {
        let before = ends.iter().filter(|end| **end <= at).count();
        let torn = usize::from(at > 0 && !ends.contains(&at));
        let padded = [&whole[..at], &[0; 64]].concat();

        assert_eq!(decode(&whole[..at]), (records[..before].to_vec(), torn), "cut at {at}");
        let (found, damaged) = decode(&padded);
        assert_eq!(found, records[..before], "cut at {at}, zeros behind");
        // What is cut off may have been zeros.
        assert!(damaged <= 1 && (damaged == 1 || torn == 0), "cut at {at}: {damaged}");
    }
}

#[test]
fn one_changed_bit_anywhere_costs_the_record_it_is_in_and_no_other() {
    let (records, bytes) = sample();
    let mut at = 0;
    for (number, record) in bytes.iter().enumerate() {
        let mut others = records.clone();
        others.remove(number);
        for offset in at..at + record.len() {
            let mut changed = bytes.concat();
            changed[offset] ^= 1 << (offset % 8);

            assert_eq!(decode(&changed), (others.clone(), 1), "byte {offset}");
        }
        at += record.len();
    }
}

#[test]
fn zeros_are_space_that_was_never_written() {
    let (records, bytes) = sample();
    let mut spaced = vec![0; 100];
    for record in &bytes {
        spaced.extend(record);
        spaced.extend([0; 1000]);
    }

    assert_eq!(decode(&spaced), (records, 0));
    assert_eq!(decode(&[0; 4096]), (vec![], 0));
    assert_eq!(decode(&[]), (vec![], 0));
}

#[test]
fn a_record_that_is_sound_and_says_nothing_known_is_damage() {
    let good = encoded(Kind::Open, &row("one"));
    let mut unknown = encoded(Kind::Open, &row("two"));
    unknown[12] = 77;
    let checksum = crc32fast::hash(&unknown[12..]).to_le_bytes();
    unknown[8..12].copy_from_slice(&checksum);
    let foreign = encoded(Kind::Close, &serde_json::json!({ "other": 1 }));
    let empty = [b"BUJ1".as_slice(), &[0; 8]].concat();
    for bad in [unknown, foreign, empty] {
        let journal = [good.clone(), bad, good.clone()].concat();

        let (records, damaged) = decode(&journal);

        assert_eq!((records.len(), damaged), (2, 1));
    }
}

#[test]
fn absurd_lengths_are_damage() {
    let good = encoded(Kind::Open, &row("one"));
    for length in [0, 1, 64 * 1024, 64 * 1024 + 1, u32::MAX - 12, u32::MAX] {
        let head = [b"BUJ1".as_slice(), &length.to_le_bytes(), &[7; 4]].concat();

        let (records, damaged) = decode(&[head, good.clone()].concat());

        assert_eq!((records.len(), damaged), (1, 1), "{length}");
    }
}

#[test]
fn the_mark_inside_a_damaged_record_leads_nobody_astray() {
    let marked = NewUsage { error_message: Some("BUJ1BUJ1 BUJ1".to_owned()), ..row("one") };
    let mut journal = encoded(Kind::Open, &marked);
    assert_eq!(decode(&journal).0, [Record::Open(marked)]);
    journal[12] ^= 1;
    journal.extend(encoded(Kind::Open, &row("two")));

    let (records, damaged) = decode(&journal);

    assert_eq!(records, [Record::Open(row("two"))]);
    assert!(damaged >= 1);
}

#[test]
fn rows_of_another_release_are_read() {
    let mut other = serde_json::to_value(row("one")).unwrap();
    let members = other.as_object_mut().unwrap();
    members.remove("client_agent_id"); // not yet known there
    members.insert("new_field".to_owned(), serde_json::json!({ "a": [1] }));

    let (records, damaged) = decode(&encoded(Kind::Open, &other));

    assert_eq!((records, damaged), (vec![Record::Open(row("one"))], 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn rows_of_any_text_are_read_back(texts in prop::collection::vec("\\PC{0,40}|[\\x00-\\x1f]{0,8}", 4)) {
        let row = NewUsage {
            call_id: texts[0].clone(),
            error_message: Some(texts[1].clone()),
            stop_reason: Some(texts[2].clone()),
            model_requested: texts[3].clone(),
            ..row("")
        };

        let (records, damaged) = decode(&encoded(Kind::Close, &row));

        prop_assert_eq!((records, damaged), (vec![Record::Close(row)], 0));
    }

    #[test]
    fn bytes_between_records_are_passed_over_and_counted(
        rubbish in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 6),
    ) {
        let (records, bytes) = sample();
        let mut journal = Vec::new();
        for (number, rubbish) in rubbish.iter().enumerate() {
            journal.extend(rubbish);
            journal.extend(bytes.get(number).into_iter().flatten());
        }

        let places = rubbish.iter().filter(|bytes| bytes.iter().any(|byte| *byte != 0)).count();
        prop_assert_eq!(decode(&journal), (records, places));
    }

    #[test]
    fn bytes_of_any_kind_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let (records, damaged) = decode(&bytes);

        prop_assert_eq!((records.len(), damaged > 0), (0, bytes.iter().any(|byte| *byte != 0)));
    }
}

// One process

#[test]
fn a_call_is_in_the_file_when_it_is_opened_and_when_it_is_closed() {
    let folder = folder();
    let process = Process::start(folder.path(), PLENTY);
    let row = row("one");

    let slot = process.journal.open(&row).unwrap();
    let path = files(folder.path(), ".journal").remove(0);
    let opened = read_records(&path);
    process.journal.progress(&slot, "one", tokens(12, 3));
    let receipt = process.journal.close(slot, &closed(&row));

    assert_eq!(opened, (vec![Record::Open(row.clone())], 0));
    let progress = Progress { call_id: "one".to_owned(), tokens: tokens(12, 3) };
    let all =
        vec![Record::Open(row.clone()), Record::Progress(progress), Record::Close(closed(&row))];
    assert_eq!(read_records(&path), (all, 0));
    assert!(receipt.is_in_journal());
}

#[test]
fn depth_counts_calls_until_their_rows_are_committed() {
    let folder = folder();
    let process = Process::start(folder.path(), PLENTY);

    let slot = process.journal.open(&row("one")).unwrap();
    let other = process.open_and_close(&row("two"));
    let while_open = process.directory.depth();
    let receipt = process.journal.close(slot, &closed(&row("one")));
    let when_closed = process.directory.depth();
    receipt.release();
    let after_one = process.directory.depth();
    other.release();

    assert_eq!((while_open, when_closed, after_one, process.directory.depth()), (2, 2, 1, 0));
}

#[test]
fn the_bytes_told_are_those_of_the_files() {
    let folder = folder();
    let process = Process::start(folder.path(), PLENTY);
    let before = process.directory.bytes();

    let receipts: Vec<Receipt> =
        (0..100).map(|number| process.open_and_close(&long_row(&number.to_string()))).collect();

    let on_disk = || -> u64 {
        let journals = files(folder.path(), ".journal");
        journals.iter().map(|path| path.metadata().unwrap().len()).sum()
    };
    assert_eq!((before, process.directory.bytes()), (0, on_disk()));
    receipts.into_iter().for_each(Receipt::release);
    assert_eq!(process.directory.bytes(), on_disk());
}

#[test]
fn files_are_private_and_so_is_the_directory() {
    let folder = folder();
    let path = folder.path().join("deep/journal");

    let process = Process::start(&path, PLENTY);
    let _receipt = process.open_and_close(&row("one"));

    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let all = files(&path, "");
    assert_eq!(all.iter().map(|path| mode(path)).collect::<Vec<_>>(), [0o600, 0o600]);
}

#[test]
fn without_a_directory_nothing_is_written_and_nothing_refused() {
    let journal = Journal::new(None, 0, Fsync::Always, OnFull::Strict);

    let slot = journal.open(&row("one")).unwrap();
    journal.progress(&slot, "one", tokens(1, 2));
    let receipt = journal.close(slot, &closed(&row("one")));

    assert!(!receipt.is_in_journal());
    assert!(journal.is_durable() && journal.durable().now_or_never().is_some());
    receipt.release();
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();

    assert!(Directory::open(file.path(), PLENTY).is_err());
    assert!(Directory::open(&file.path().join("journal"), PLENTY).is_err());
}

#[test]
fn a_directory_that_has_gone_refuses_calls_or_serves_without_as_set() {
    let folder = folder();
    let directory = Directory::open(folder.path(), PLENTY).unwrap();
    let strict = worker(&directory, 0);
    let lenient = Journal::new(Some(directory.clone()), 1, Fsync::Interval, OnFull::BestEffort);
    std::fs::remove_dir_all(folder.path()).unwrap();

    let refused = strict.open(&row("one"));
    let served = lenient.open(&row("two"));

    assert!(matches!(refused, Err(JournalError::Io(_))), "{refused:?}");
    assert!(served.unwrap().segment.is_none());
    assert_eq!((directory.is_refusing(), directory.bytes(), directory.depth()), (true, 0, 0));
}

// After a crash

#[test]
fn calls_of_a_dead_process_are_found_as_they_ended_or_as_interrupted() {
    let folder = folder();
    let used = TokenCounts {
        input: Some(12),
        output: Some(20),
        cache_write: Some(3),
        cache_write_1h: Some(2),
        cache_read: Some(1),
    };
    {
        let dead = Process::start(folder.path(), PLENTY);
        let _closed = dead.open_and_close(&row("closed"));
        let _open = dead.journal.open(&row("open")).unwrap();
        let streaming = dead.journal.open(&row("streaming")).unwrap();
        dead.journal.progress(&streaming, "streaming", tokens(12, 3));
        dead.journal.progress(&streaming, "streaming", used);
    }

    let (rows, damaged) = recover(folder.path());

    let expected = [
        ("closed".to_owned(), closed(&row("closed"))),
        ("open".to_owned(), interrupted(&row("open"), TokenCounts::default())),
        ("streaming".to_owned(), interrupted(&row("streaming"), used)),
    ];
    assert_eq!((rows, damaged), (BTreeMap::from(expected), 0));
}

#[test]
fn progress_changes_no_call_that_is_closed_or_unknown() {
    let folder = folder();
    {
        let dead = Process::start(folder.path(), PLENTY);
        let other = dead.journal.open(&row("other")).unwrap();
        let _closed = dead.open_and_close(&row("closed"));
        dead.journal.progress(&other, "closed", tokens(99, 99));
        dead.journal.progress(&other, "unknown", tokens(99, 99));
    }

    let (rows, _) = recover(folder.path());

    assert_eq!(rows.keys().collect::<Vec<_>>(), ["closed", "other"]);
    assert_eq!(rows["closed"], closed(&row("closed")));
}

#[test]
fn damage_in_the_file_of_a_dead_process_is_counted_and_the_rest_replayed() {
    let folder = folder();
    {
        let dead = Process::start(folder.path(), PLENTY);
        for id in ["one", "two", "three"] {
            drop(dead.open_and_close(&row(id)));
        }
    }
    let path = files(folder.path(), ".journal").remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    let close_of_two = memchr::memmem::rfind(&bytes, b"\"two\"").unwrap();
    bytes[close_of_two + 1] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    let (rows, damaged) = recover(folder.path());

    assert_eq!(damaged, 1);
    assert_eq!(rows.keys().collect::<Vec<_>>(), ["one", "three", "two"]);
    assert_eq!(rows["three"], closed(&row("three")));
    assert_eq!(rows["two"], interrupted(&row("two"), TokenCounts::default()));
}

#[test]
fn the_files_of_a_living_process_are_left_alone() {
    let folder = folder();
    let living = Process::start(folder.path(), PLENTY);
    let receipt = living.open_and_close(&row("one"));
    let before = files(folder.path(), ".journal");
    let other = Directory::open(folder.path(), PLENTY).unwrap();

    let found = (orphans(&other).len(), orphans(&living.directory).len());
    other.remove_all();

    assert_eq!(found, (0, 0));
    assert_eq!(files(folder.path(), ".journal"), before);
    assert_eq!(read_records(&before[0]).0.len(), 2);
    drop((receipt, living));
    assert_eq!(recover(folder.path()).0.len(), 1);
}

#[test]
fn only_one_of_two_processes_gets_the_files_of_a_dead_one() {
    let folder = folder();
    drop(Process::start(folder.path(), PLENTY).open_and_close(&row("one")));
    let (first, second) = (
        Directory::open(folder.path(), PLENTY).unwrap(),
        Directory::open(folder.path(), PLENTY).unwrap(),
    );

    let held = orphans(&first);
    let meanwhile = orphans(&second).len();
    drop(held); // it dies before it has removed them
    let afterwards = orphans(&second);

    assert_eq!(meanwhile, 0);
    assert_eq!(afterwards.len(), 1);
    assert_eq!(afterwards[0].read().unwrap().rows, [closed(&row("one"))]);
}

#[test]
fn nothing_of_a_dead_process_is_left_after_its_removal() {
    let folder = folder();
    {
        let dead = Process::start(folder.path(), PLENTY);
        let other_worker = worker(&dead.directory, 11);
        let slot = other_worker.open(&row("two")).unwrap();
        drop((dead.open_and_close(&row("one")), other_worker.close(slot, &closed(&row("two")))));
    }
    let own = Directory::open(folder.path(), PLENTY).unwrap();
    std::fs::write(own.rejects(), "{}\n").unwrap();
    let orphan = orphans(&own).remove(0);
    let rows = orphan.read().unwrap().rows.len();

    orphan.remove().unwrap();

    assert_eq!(rows, 2);
    assert_eq!(files(folder.path(), ".journal"), Vec::<PathBuf>::new());
    assert_eq!(files(folder.path(), ".lock"), std::slice::from_ref(&own.lock_path));
    assert!(own.rejects().exists());
    assert!(orphans(&own).is_empty());
}

#[test]
fn a_process_that_ends_well_leaves_nothing_behind() {
    let folder = folder();
    let process = Process::start(folder.path(), PLENTY);
    let other = Process::start(folder.path(), PLENTY);
    process.open_and_close(&row("one")).release();
    let kept = other.open_and_close(&row("two"));
    std::fs::write(process.directory.rejects(), "{}\n").unwrap();

    process.directory.remove_all();

    assert_eq!(files(folder.path(), ".lock"), std::slice::from_ref(&other.directory.lock_path));
    assert_eq!(files(folder.path(), ".journal"), [other.current().path().to_owned()]);
    assert!(process.directory.rejects().exists());
    drop(kept);
}

#[test]
fn an_instance_that_never_wrote_is_an_orphan_without_rows() {
    let folder = folder();
    drop(Process::start(folder.path(), PLENTY));
    let own = Directory::open(folder.path(), PLENTY).unwrap();

    let orphan = orphans(&own).remove(0);

    assert!(orphan.read().unwrap().rows.is_empty());
    orphan.remove().unwrap();
    assert_eq!(files(folder.path(), ""), std::slice::from_ref(&own.lock_path));
}

// Segments

/// Opens and closes long calls until the journal goes on in another file.
fn fill_segment(process: &Process, name: &str) -> Vec<Receipt> {
    let begun = process.journal.next_segment.get().max(1);
    let mut receipts = Vec::new();
    while process.journal.next_segment.get() <= begun {
        receipts.push(process.open_and_close(&long_row(&format!("{name}-{}", receipts.len()))));
    }
    receipts
}

#[test]
fn a_full_segment_is_followed_by_another_and_deleted_once_all_is_released() {
    let folder = folder();
    let process = Process::start(folder.path(), PLENTY);

    let mut receipts = fill_segment(&process, "a");
    let two = files(folder.path(), ".journal");
    let in_second = receipts.pop().unwrap();
    let last_of_first = receipts.pop().unwrap();
    receipts.into_iter().for_each(Receipt::release);
    let while_one_is_left = files(folder.path(), ".journal").len();
    last_of_first.release();

    assert_eq!(two.len(), 2);
    let length = two[0].metadata().map(|metadata| metadata.len());
    assert!(length.is_err(), "the first is deleted");
    assert_eq!(while_one_is_left, 2);
    assert_eq!(files(folder.path(), ".journal"), two[1..]);
    assert_eq!(process.directory.bytes(), two[1].metadata().unwrap().len());
    in_second.release();
    assert_eq!((files(folder.path(), ".journal").len(), process.directory.depth()), (1, 0));
}

#[test]
fn a_segment_is_at_least_as_long_as_it_should_be_and_not_much_longer() {
    let folder = folder();
    let process = Process::start(folder.path(), PLENTY);

    let _receipts = fill_segment(&process, "a");

    let length = files(folder.path(), ".journal")[0].metadata().unwrap().len();
    assert!((SEGMENT..=SEGMENT + 2 * GROWTH).contains(&length), "{length}");
}

#[test]
fn a_call_closed_in_the_next_segment_keeps_both_until_it_is_released() {
    let folder = folder();
    let process = Process::start(folder.path(), PLENTY);
    let slot = process.journal.open(&row("across")).unwrap();
    let first = process.current();
    fill_segment(&process, "a").into_iter().for_each(Receipt::release);
    let receipt = process.journal.close(slot, &closed(&row("across")));
    let second = process.current();
    fill_segment(&process, "b").into_iter().for_each(Receipt::release);

    let before = (first.path().exists(), second.path().exists());
    receipt.release();

    assert_eq!(before, (true, true));
    assert_eq!((first.path().exists(), second.path().exists()), (false, false));
    assert_eq!(files(folder.path(), ".journal"), [process.current().path().to_owned()]);
}

#[test]
fn a_call_across_segments_is_replayed_once_after_a_crash() {
    let folder = folder();
    {
        let dead = Process::start(folder.path(), PLENTY);
        let across = dead.journal.open(&row("across")).unwrap();
        let open = dead.journal.open(&row("open")).unwrap();
        fill_segment(&dead, "a").into_iter().for_each(Receipt::release);
        dead.journal.progress(&open, "open", tokens(12, 3));
        drop(dead.journal.close(across, &closed(&row("across"))));
    }

    let (rows, damaged) = recover(folder.path());

    assert_eq!(damaged, 0);
    assert_eq!(rows["across"], closed(&row("across")));
    assert_eq!(rows["open"], interrupted(&row("open"), tokens(12, 3)));
}

#[test]
fn space_for_open_calls_moves_on_with_them() {
    let folder = folder();
    let process = Process::start(folder.path(), PLENTY);
    let slots: Vec<Slot> = (0..30)
        .map(|number| process.journal.open(&long_row(&number.to_string())).unwrap())
        .collect();

    let _receipts = fill_segment(&process, "a");

    let promised: u64 = slots.iter().map(|slot| slot.reserved).sum();
    let current = process.journal.file.borrow();
    let Current { position, allocated, .. } = current.as_ref().unwrap();
    assert!(allocated - position >= promised, "{allocated} {position} {promised}");
}

#[test]
fn a_spilled_segment_is_ready_once_it_is_sealed_and_forgotten_after_its_replay() {
    let folder = folder();
    let process = Process::start(folder.path(), PLENTY);
    let (kept, spilled) =
        (process.open_and_close(&row("kept")), process.open_and_close(&row("spilled")));

    let segment = spill(spilled);
    let unsealed = segment.is_ready_to_replay();
    segment.want_seal();
    process.journal.seal_if_wanted();
    let with_a_row_in_memory = segment.is_ready_to_replay();
    kept.release();
    let ready = segment.is_ready_to_replay();
    let Recovered { rows, damaged } = recovery::closed_calls(segment.path()).unwrap();
    let depth = process.directory.depth();
    segment.forget(1);

    assert_eq!((unsealed, with_a_row_in_memory, ready), (false, false, true));
    assert_eq!((rows, damaged), (vec![closed(&row("kept")), closed(&row("spilled"))], 0));
    assert!(!segment.path().exists());
    assert_eq!((depth, process.directory.depth()), (1, 0));
}

#[test]
fn a_receipt_that_is_dropped_leaves_its_row_in_the_journal() {
    let folder = folder();
    let process = Process::start(folder.path(), PLENTY);
    let segment = {
        let _dropped = process.open_and_close(&row("dropped"));
        process.current()
    };

    let receipts = fill_segment(&process, "a");
    receipts.into_iter().for_each(Receipt::release);

    assert!(segment.path().exists() && segment.is_ready_to_replay());
    let rows = recovery::closed_calls(segment.path()).unwrap().rows;
    assert!(rows.contains(&closed(&row("dropped"))));
}

#[test]
fn a_spilled_call_across_segments_is_found_where_it_was_closed() {
    let folder = folder();
    let process = Process::start(folder.path(), PLENTY);
    let slot = process.journal.open(&row("across")).unwrap();
    let first = process.current();
    first.want_seal();
    process.journal.seal_if_wanted();

    let second = spill(process.journal.close(slot, &closed(&row("across"))));
    second.want_seal();
    process.journal.seal_if_wanted();

    assert_ne!(first.path(), second.path());
    assert!(first.is_ready_to_replay() && second.is_ready_to_replay());
    assert!(recovery::closed_calls(first.path()).unwrap().rows.is_empty());
    assert_eq!(recovery::closed_calls(second.path()).unwrap().rows, [closed(&row("across"))]);
    first.forget(0);
    assert_eq!((first.path().exists(), second.path().exists()), (false, true));
    second.forget(1);
    assert_eq!((second.path().exists(), process.directory.depth()), (false, 0));
}

#[test]
fn segments_with_rows_that_left_memory_are_listed_once_until_they_are_replayed() {
    let folder = folder();
    let process = Process::start(folder.path(), PLENTY);
    let [one, two, three] = ["one", "two", "three"].map(|id| process.open_and_close(&row(id)));
    let listed = || process.directory.spilled().len();
    let before = listed();

    let segment = spill(one);
    drop(two);
    let after_two = process.directory.spilled();
    three.release();
    seal(&process);
    segment.forget(2);

    assert_eq!((before, after_two.len(), listed()), (0, 1, 0));
    assert!(Arc::ptr_eq(&after_two[0], &segment));
    assert!(!segment.path().exists());
}

#[test]
fn files_that_are_left_are_the_next_process_s_to_replay() {
    let folder = folder();
    let process = Process::start(folder.path(), PLENTY);
    let (one, two) = (process.open_and_close(&row("one")), process.open_and_close(&row("two")));
    drop(one);

    process.directory.leave();
    drop(two);

    assert!(process.directory.spilled().is_empty(), "nobody here reads them any more");
    assert_eq!(recover(folder.path()).0.keys().collect::<Vec<_>>(), ["one", "two"]);
}

#[test]
fn a_segment_that_nobody_asked_to_seal_stays_open() {
    let folder = folder();
    let process = Process::start(folder.path(), PLENTY);
    let _receipt = process.open_and_close(&row("one"));

    process.journal.seal_if_wanted();

    assert_eq!(files(folder.path(), ".journal").len(), 1);
}

// A journal that is full

/// Opens long calls until the journal takes no more.
fn open_until_full(journal: &Journal) -> (Vec<Slot>, JournalError) {
    let mut slots = Vec::new();
    loop {
        match journal.open(&long_row(&format!("call-{:04}", slots.len()))) {
            Ok(slot) => slots.push(slot),
            Err(error) => return (slots, error),
        }
        assert!(slots.len() < 10_000, "it is never full");
    }
}

#[test]
fn a_full_journal_refuses_calls_and_says_so() {
    let folder = folder();
    let process = Process::start(folder.path(), GROWTH);

    let (slots, error) = open_until_full(&process.journal);

    assert!(matches!(error, JournalError::Full), "{error:?}");
    assert!(!slots.is_empty());
    assert!(process.directory.is_refusing());
    assert_eq!(
        (process.directory.bytes(), process.directory.depth()),
        (GROWTH, slots.len() as u64)
    );
    assert_eq!(files(folder.path(), ".journal")[0].metadata().unwrap().len(), GROWTH);
}

#[test]
fn a_full_journal_serves_without_when_it_is_to_do_its_best() {
    let folder = folder();
    let process = Process::start(folder.path(), GROWTH);
    let (slots, _) = open_until_full(&process.journal);
    let lenient =
        Journal::new(Some(process.directory.clone()), 1, Fsync::Always, OnFull::BestEffort);

    let slot = lenient.open(&row("served")).unwrap();
    lenient.progress(&slot, "served", tokens(1, 2));
    let receipt = lenient.close(slot, &closed(&row("served")));

    assert!(!receipt.is_in_journal());
    assert!(process.directory.is_refusing() && lenient.is_durable());
    assert_eq!(files(folder.path(), ".journal").len(), 1, "that of the other worker");
    receipt.release();
    assert_eq!(process.directory.depth(), slots.len() as u64);
}

#[test]
fn open_calls_can_be_closed_when_the_journal_is_full_whatever_their_streams_noted() {
    let folder = folder();
    let process = Process::start(folder.path(), GROWTH);
    let (slots, _) = open_until_full(&process.journal);
    let opened = slots.len();

    for slot in &slots {
        for output in 0..200 {
            process.journal.progress(slot, "call-0000", tokens(12, output));
        }
    }
    let receipts: Vec<Receipt> = slots
        .into_iter()
        .enumerate()
        .map(|(number, slot)| {
            let longest = NewUsage {
                stop_reason: Some("r".repeat(1000)),
                error_code: Some("e".repeat(500)),
                ..closed(&long_row(&format!("call-{number:04}")))
            };
            process.journal.close(slot, &longest)
        })
        .collect();

    assert!(receipts.iter().all(Receipt::is_in_journal));
    let path = process.current().path().to_owned();
    assert_eq!(path.metadata().unwrap().len(), GROWTH, "no record lies beyond what was allocated");
    let Recovered { rows, damaged } = recovery::closed_calls(&path).unwrap();
    assert_eq!((rows.len(), damaged), (opened, 0));
    assert_eq!(process.journal.reserved.get(), 0);
}

#[test]
fn calls_are_taken_again_once_a_full_segment_is_released() {
    let folder = folder();
    let process = Process::start(folder.path(), LEAST);
    let mut receipts = Vec::new();
    while let Ok(slot) = process.journal.open(&long_row(&receipts.len().to_string())) {
        receipts.push(process.journal.close(slot, &closed(&long_row("any"))));
    }
    let refused = process.directory.is_refusing();

    receipts.into_iter().for_each(Receipt::release);
    let taken = process.journal.open(&row("again"));

    assert!(refused);
    assert!(taken.is_ok(), "{taken:?}");
    assert!(!process.directory.is_refusing());
}

#[test]
fn calls_are_taken_again_once_all_of_an_unfinished_segment_is_released() {
    let folder = folder();
    let process = Process::start(folder.path(), GROWTH);
    let mut receipts = Vec::new();
    while let Ok(slot) = process.journal.open(&long_row("any")) {
        receipts.push(process.journal.close(slot, &closed(&long_row("any"))));
    }
    let depth = process.directory.depth();

    receipts.into_iter().for_each(Receipt::release);
    let taken = process.journal.open(&long_row("again"));

    assert!(depth > 0);
    assert!(taken.is_ok(), "{taken:?}, {} calls not committed", process.directory.depth());
}

#[test]
fn calls_that_are_committed_at_once_never_fill_the_smallest_journal_of_many_workers() {
    let folder = folder();
    let directory = Directory::open(folder.path(), LEAST).unwrap();
    let workers: Vec<Rc<Journal>> = (0..8).map(|number| worker(&directory, number)).collect();
    for (number, journal) in (0..800).zip(workers.iter().cycle()) {
        let row = long_row(&number.to_string());

        let slot = journal.open(&row);

        let Ok(slot) = slot else {
            panic!("call {number}: {slot:?}, {} calls not committed", directory.depth());
        };
        journal.close(slot, &row).release();
    }
}

#[test]
fn a_full_journal_can_still_be_sealed_and_replayed() {
    let folder = folder();
    let directory = Directory::open(folder.path(), LEAST).unwrap();
    let workers: Vec<Rc<Journal>> = (0..4).map(|number| worker(&directory, number)).collect();
    let mut spilled: Vec<Arc<Segment>> = Vec::new();
    for (number, journal) in workers.iter().cycle().enumerate() {
        let row = long_row(&number.to_string());
        let Ok(slot) = journal.open(&row) else { break };
        spilled.push(spill(journal.close(slot, &row)));
    }

    spilled.iter().for_each(|segment| segment.want_seal());
    workers.iter().for_each(|journal| journal.seal_if_wanted());

    assert!(spilled.iter().any(|segment| segment.is_ready_to_replay()));
}

#[test]
fn a_file_that_may_not_grow_refuses_calls_and_loses_no_open_one() {
    // As on a full disk: the process is started again with a limit on the size of its files.
    const LIMITED: &str = "JOURNAL_TEST_LIMITED";
    if std::env::var_os(LIMITED).is_none() {
        let name =
            "usage::journal::tests::a_file_that_may_not_grow_refuses_calls_and_loses_no_open_one";
        let limited = Command::new("sh")
            .args(["-c", r#"trap '' XFSZ; ulimit -f 4096; exec "$0" "$@""#])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(LIMITED, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&limited.stdout);
        assert!(limited.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let folder = folder();
    let process = Process::start(folder.path(), PLENTY);

    let (slots, error) = open_until_full(&process.journal);
    let (opened, bytes) = (slots.len(), process.directory.bytes());
    let receipts: Vec<Receipt> = slots
        .into_iter()
        .map(|slot| process.journal.close(slot, &closed(&long_row("any"))))
        .collect();

    assert!(matches!(error, JournalError::Io(_)), "{error:?}");
    assert!(process.directory.is_refusing());
    assert!(receipts.iter().all(Receipt::is_in_journal));
    let path = process.current().path().to_owned();
    assert_eq!(path.metadata().unwrap().len(), bytes, "what was refused is not counted");
    let Recovered { rows, damaged } = recovery::closed_calls(&path).unwrap();
    assert_eq!((rows.len(), damaged), (opened, 0));
}

// Durability

#[test]
fn with_an_interval_what_is_written_counts_as_durable() {
    let folder = folder();
    let process = Process::start(folder.path(), PLENTY);

    let _receipt = process.open_and_close(&row("one"));

    assert!(process.journal.is_durable());
    assert!(process.journal.durable().now_or_never().is_some());
}

#[test]
fn with_always_nothing_is_durable_before_it_is_synced() {
    let folder = folder();
    let directory = Directory::open(folder.path(), PLENTY).unwrap();
    let journal = Journal::new(Some(directory), 0, Fsync::Always, OnFull::Strict);
    let before = journal.is_durable();

    let slot = journal.open(&row("one")).unwrap();

    assert!(before && !journal.is_durable());
    assert!(journal.durable().now_or_never().is_none());
    drop(journal.close(slot, &row("one")));
}

#[actix_rt::test]
async fn with_always_everybody_who_waits_is_told_after_a_sync() {
    let folder = folder();
    let directory = Directory::open(folder.path(), PLENTY).unwrap();
    let journal = Journal::new(Some(directory), 0, Fsync::Always, OnFull::Strict);
    let syncing = actix_rt::spawn(journal.clone().keep_synced());

    for round in 0..3 {
        let rows: Vec<NewUsage> = (0..5).map(|number| row(&format!("{round}-{number}"))).collect();
        let slots: Vec<Slot> = rows.iter().map(|row| journal.open(row).unwrap()).collect();
        assert!(!journal.is_durable());
        tokio::join!(journal.durable(), journal.durable(), journal.durable());
        assert!(journal.is_durable());

        let close = |(slot, row): (Slot, &NewUsage)| journal.close(slot, row);
        let receipts: Vec<Receipt> = slots.into_iter().zip(&rows).map(close).collect();
        assert!(!journal.is_durable());
        journal.durable().await;

        assert!(journal.is_durable());
        receipts.into_iter().for_each(Receipt::release);
    }
    syncing.abort();
}

#[actix_rt::test]
async fn a_segment_that_is_to_be_sealed_is_sealed_beside_the_syncing() {
    let folder = folder();
    let directory = Directory::open(folder.path(), PLENTY).unwrap();
    let journal = Journal::new(Some(directory.clone()), 0, Fsync::Always, OnFull::Strict);
    let syncing = actix_rt::spawn(journal.clone().keep_synced());
    let slot = journal.open(&row("one")).unwrap();
    let segment = spill(journal.close(slot, &closed(&row("one"))));
    segment.want_seal();

    journal.durable().await; // a round of the loop, at whose end it is sealed
    let slot = journal.open(&row("two")).unwrap();
    journal.durable().await;

    assert!(segment.is_ready_to_replay());
    assert_eq!(files(folder.path(), ".journal").len(), 2);
    drop(journal.close(slot, &row("two")));
    syncing.abort();
}

// Any order

#[derive(Debug, Clone)]
enum Step {
    Open,
    Progress(usize, i64),
    Close(usize),
    Release(usize),
    Spill(usize),
    /// The worker goes on in another file.
    Seal,
}

#[test]
fn the_progress_of_an_open_call_outlives_all_else_in_its_segment() {
    let folder = folder();
    {
        let dead = Process::start(folder.path(), PLENTY);
        let (long, short) = (row("long"), row("short"));
        let slot = dead.journal.open(&long).unwrap();
        seal(&dead);
        let other = dead.journal.open(&short).unwrap();
        dead.journal.progress(&slot, &long.call_id, tokens(12, 7));
        let receipt = dead.journal.close(other, &closed(&short));
        seal(&dead);

        receipt.release();
    }

    let (rows, _) = recover(folder.path());

    assert_eq!(rows.get("long"), Some(&interrupted(&row("long"), tokens(12, 7))));
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Open),
        3 => (any::<usize>(), 0..100i64).prop_map(|(which, output)| Step::Progress(which, output)),
        5 => any::<usize>().prop_map(Step::Close),
        4 => any::<usize>().prop_map(Step::Release),
        1 => any::<usize>().prop_map(Step::Spill),
        1 => Just(Step::Seal),
    ];
    prop::collection::vec(step, 0..50)
}

fn seal(process: &Process) {
    if process.journal.file.borrow().is_some() {
        process.current().want_seal();
        process.journal.seal_if_wanted();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happened_before_a_crash_no_call_is_lost_or_told_twice(steps in steps()) {
        let folder = folder();
        let mut expected: BTreeMap<String, NewUsage> = BTreeMap::new();
        let mut committed: Vec<String> = Vec::new();
        {
            let dead = Process::start(folder.path(), PLENTY);
            let mut open: Vec<(NewUsage, Slot)> = Vec::new();
            let mut waiting: Vec<(String, Receipt)> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Open => {
                        let row = row(&format!("{number:04}"));
                        expected.insert(row.call_id.clone(), interrupted(&row, TokenCounts::default()));
                        let slot = dead.journal.open(&row).unwrap();
                        open.push((row, slot));
                    }
                    Step::Progress(which, output) if !open.is_empty() => {
                        let (row, slot) = &open[which % open.len()];
                        dead.journal.progress(slot, &row.call_id, tokens(12, output));
                        expected.insert(row.call_id.clone(), interrupted(row, tokens(12, output)));
                    }
                    Step::Close(which) if !open.is_empty() => {
                        let (row, slot) = open.swap_remove(which % open.len());
                        expected.insert(row.call_id.clone(), closed(&row));
                        waiting.push((row.call_id.clone(), dead.journal.close(slot, &closed(&row))));
                    }
                    Step::Release(which) if !waiting.is_empty() => {
                        let (call_id, receipt) = waiting.swap_remove(which % waiting.len());
                        receipt.release();
                        expected.remove(&call_id);
                        committed.push(call_id);
                    }
                    Step::Spill(which) if !waiting.is_empty() => {
                        let (_, receipt) = waiting.swap_remove(which % waiting.len());
                        drop(receipt);
                    }
                    Step::Seal => seal(&dead),
                    Step::Progress(..) | Step::Close(_) | Step::Release(_) | Step::Spill(_) => {}
                }
            }
            prop_assert_eq!(dead.directory.depth(), expected.len() as u64);
        }

        let (mut rows, damaged) = recover(folder.path());

        // A row that is committed may be read again: it is not written twice.
        rows.retain(|call_id, _| !committed.contains(call_id));
        prop_assert_eq!(damaged, 0);
        prop_assert_eq!(rows, expected);
    }

    #[test]
    fn receipts_released_in_any_order_leave_nothing_but_the_current_segment(
        order in prop::collection::vec((any::<u32>(), any::<bool>()), 40),
    ) {
        let folder = folder();
        let process = Process::start(folder.path(), PLENTY);
        let (mut open, mut receipts) = (Vec::new(), Vec::new());
        for (number, (_, late)) in order.iter().enumerate() {
            let row = row(&number.to_string());
            let slot = process.journal.open(&row).unwrap();
            if *late {
                open.push((slot, row)); // closed at the end, in another segment
            } else {
                receipts.push(process.journal.close(slot, &row));
            }
            if number % 8 == 7 {
                seal(&process);
            }
        }
        receipts.extend(open.into_iter().map(|(slot, row)| process.journal.close(slot, &row)));
        let mut receipts: Vec<(u32, Receipt)> =
            order.into_iter().map(|(order, _)| order).zip(receipts).collect();
        receipts.sort_by_key(|(order, _)| *order);
        let segments = files(folder.path(), ".journal").len();

        receipts.into_iter().for_each(|(_, receipt)| receipt.release());

        prop_assert_eq!(segments, 6);
        prop_assert_eq!(files(folder.path(), ".journal"), [process.current().path().to_owned()]);
        prop_assert_eq!(process.directory.depth(), 0);
        prop_assert_eq!(process.directory.bytes(), process.current().path().metadata().unwrap().len());
    }
}
