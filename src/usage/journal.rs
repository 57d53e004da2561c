//! The usage journal: an append-only file for each HTTP worker, written in line by that worker. A call is opened here
//! before it goes upstream and closed here before its last byte reaches the client, so that a killed process loses
//! no finished call. The recorder gets every closed call as a message too; once its row is committed, the receipt
//! that came with it lets the file go.
//!
//! A worker's file is a row of segments. A segment is deleted when it is full and no call that it mentions is still
//! to be committed. Space for a call's final record is allocated when the call is opened: a full disk refuses new
//! calls and loses no open one.

mod files;
pub mod record;
pub mod recovery;

use std::{
    cell::{Cell, RefCell},
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::TokenCounts;
use crate::{
    db::usage::NewUsage,
    settings::{Fsync, OnFull},
};
use files::private_file;
pub use files::{Directory, Receipt, Segment};
use record::{Kind, Progress};

/// Bytes by which a segment's file grows.
const GROWTH: u64 = 1 << 20;
/// A segment longer than this is closed and the next one begun.
const SEGMENT: u64 = 8 << 20;
/// What a final record may be longer than its start record: tokens, times, reasons, all of bounded length.
const FINAL_EXTRA: u64 = 2048;
/// How often written records are brought to the disk with `fsync: interval`.
pub const SYNC_INTERVAL: Duration = Duration::from_millis(200);
/// How long `fsync: always` waits for more records to sync together.
const GROUP_COMMIT: Duration = Duration::from_millis(2);

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the usage journal has reached usage.journal_max_bytes")]
    Full,
    #[error("the files of the usage journal were removed, or their disk failed; restart")]
    Lost,
    #[error("the usage journal cannot be written")]
    Io(#[from] io::Error),
}

/// A call's place in the journal while it is open.
#[derive(Debug)]
pub struct Slot {
    segment: Option<Arc<Segment>>,
    reserved: u64,
    /// Where its newest progress is; needed until the call is closed.
    progress: RefCell<Option<Arc<Segment>>>,
}

/// The journal of one worker. Not shared: it lives and is written on the worker's thread.
pub struct Journal {
    /// `None`: nothing is kept on disk.
    directory: Option<Arc<Directory>>,
    worker: usize,
    fsync: Fsync,
    on_full: OnFull,
    file: RefCell<Option<Current>>,
    next_segment: Cell<u32>,
    /// Whether the last attempt to open a call failed.
    refused: Cell<bool>,
    /// Bytes promised to open calls for their final records.
    reserved: Cell<u64>,
    /// Numbers of the newest record written, and of the newest known to be on the disk.
    written: Cell<u64>,
    synced: Cell<u64>,
    sync_wanted: Notify,
    sync_done: Notify,
    /// Finished segments, and the directory when it has new files, until they are on the disk too.
    unsynced: RefCell<Vec<Arc<File>>>,
    scratch: RefCell<Vec<u8>>,
}

struct Current {
    file: Arc<File>,
    segment: Arc<Segment>,
    position: u64,
    allocated: u64,
}

impl Journal {
    pub fn new(
        directory: Option<Arc<Directory>>,
        worker: usize,
        fsync: Fsync,
        on_full: OnFull,
    ) -> Rc<Self> {
        Rc::new(Self {
            directory,
            worker,
            fsync,
            on_full,
            file: RefCell::new(None),
            next_segment: Cell::new(0),
            refused: Cell::new(false),
            reserved: Cell::new(0),
            written: Cell::new(0),
            synced: Cell::new(0),
            sync_wanted: Notify::new(),
            sync_done: Notify::new(),
            unsynced: RefCell::default(),
            scratch: RefCell::new(Vec::with_capacity(2048)),
        })
    }

    /// Opens a call: writes its start record and sets space aside for its end. `row` is what is stored should the
    /// process die before the call is closed.
    ///
    /// # Errors
    /// [`JournalError`] with `on_full: strict`; with `best_effort` a slot that writes nothing.
    pub fn open(&self, row: &NewUsage) -> Result<Slot, JournalError> {
        let Some(directory) = &self.directory else {
            return Ok(Slot { segment: None, reserved: 0, progress: RefCell::default() });
        };
        let opened = match directory.lost.load(SeqCst) {
            true => Err(JournalError::Lost),
            false => self.try_open(row, directory),
        };
        self.note_refusal(directory, opened.as_ref().err());
        match opened {
            Err(_) if self.on_full == OnFull::BestEffort => {
                Ok(Slot { segment: None, reserved: 0, progress: RefCell::default() })
            }
            opened => opened,
        }
    }

    /// Tells once when calls are refused, and once when they are taken again.
    fn note_refusal(&self, directory: &Directory, refusal: Option<&JournalError>) {
        if self.refused.replace(refusal.is_some()) == refusal.is_some() {
            return;
        }
        match refusal {
            Some(error) => {
                if directory.refusing.fetch_add(1, SeqCst) == 0 {
                    tracing::error!(%error, on_full = ?self.on_full, "the usage journal takes no calls");
                }
            }
            None => {
                if directory.refusing.fetch_sub(1, SeqCst) == 1 {
                    tracing::info!("the usage journal takes calls again");
                }
            }
        }
    }

    /// Looks whether the files are still there, and whether calls can be taken again: without readiness none may come to
    /// find out.
    fn look_after(&self) {
        let Some(directory) = &self.directory else { return };
        let current = self.file.borrow().as_ref().map(|current| current.file.clone());
        let gone = |file: &File| file.metadata().is_ok_and(|found| found.nlink() == 0);
        if (gone(&directory.lock) || current.is_some_and(|file| gone(&file)))
            && !directory.lost.swap(true, SeqCst)
        {
            tracing::error!("the files of the usage journal were removed while they were in use");
        }
        if self.refused.get() && !directory.lost.load(SeqCst) {
            let room = self.make_room(&mut self.file.borrow_mut(), directory, FINAL_EXTRA);
            self.note_refusal(directory, room.as_ref().err());
        }
    }

    fn try_open(&self, row: &NewUsage, directory: &Arc<Directory>) -> Result<Slot, JournalError> {
        let mut record = self.scratch.borrow_mut();
        record::encode(Kind::Open, row, &mut record);
        let length = record.len() as u64;
        let reserved = length + FINAL_EXTRA;
        let mut current = self.file.borrow_mut();
        self.make_room(&mut current, directory, length + reserved)?;
        let current = current.as_mut().ok_or_else(|| io::Error::other("no journal file"))?;
        self.append(current, &record)?;
        self.reserved.set(self.reserved.get() + reserved);
        current.segment.mention();
        directory.depth.fetch_add(1, SeqCst);
        Ok(Slot { segment: Some(current.segment.clone()), reserved, progress: RefCell::default() })
    }

    /// Notes what an open stream used so far, if there is room besides what is promised.
    pub fn progress(&self, slot: &Slot, call_id: &str, tokens: TokenCounts) {
        if slot.segment.is_none() {
            return;
        }
        let mut record = self.scratch.borrow_mut();
        record::encode(Kind::Progress, &Progress { call_id: call_id.into(), tokens }, &mut record);
        if let Some(current) = self.file.borrow_mut().as_mut() {
            let free = current.allocated.saturating_sub(current.position + self.reserved.get());
            if free < record.len() as u64 {
                return;
            }
            if let Err(error) = self.append(current, &record) {
                return tracing::warn!(%error, "the progress of a stream was not written to the journal");
            }
            let mut noted = slot.progress.borrow_mut();
            if !noted.as_ref().is_some_and(|segment| Arc::ptr_eq(segment, &current.segment)) {
                current.segment.mention();
                let older = noted.replace(current.segment.clone());
                older.iter().for_each(|segment| segment.unmention());
            }
        }
    }

    /// Closes a call: writes its final record into the space set aside for it.
    pub fn close(&self, slot: Slot, row: &NewUsage) -> Receipt {
        self.reserved.set(self.reserved.get().saturating_sub(slot.reserved));
        let progress = slot.progress.into_inner();
        let mut receipt = Receipt { opened: slot.segment, closed: None };
        if receipt.opened.is_none() {
            return receipt;
        }
        let mut record = self.scratch.borrow_mut();
        record::encode(Kind::Close, row, &mut record);
        if let Some(current) = self.file.borrow_mut().as_mut() {
            match self.append(current, &record) {
                Ok(()) => {
                    current.segment.mention();
                    receipt.closed = Some(current.segment.clone());
                }
                Err(error) => {
                    current.segment.directory.lost.store(true, SeqCst);
                    tracing::error!(%error, call_id = row.call_id, "a final record was not written to the journal");
                }
            }
        }
        progress.iter().for_each(|segment| segment.unmention());
        receipt
    }

    /// Resolves when everything written so far is as durable as `usage.fsync` asks for.
    pub async fn durable(&self) {
        if self.fsync == Fsync::Interval {
            return;
        }
        let mine = self.written.get();
        while self.synced.get() < mine {
            let done = self.sync_done.notified();
            self.sync_wanted.notify_one();
            done.await;
        }
    }

    /// Whether [`Journal::durable`] would resolve at once.
    pub fn is_durable(&self) -> bool {
        self.fsync == Fsync::Interval || self.synced.get() >= self.written.get()
    }

    /// Brings records to the disk and closes segments that are full or asked for, for ever. Spawn it on the worker.
    pub async fn keep_synced(self: Rc<Self>) {
        loop {
            match self.fsync {
                Fsync::Interval => tokio::time::sleep(SYNC_INTERVAL).await,
                Fsync::Always => {
                    let idle = tokio::time::timeout(SYNC_INTERVAL, self.sync_wanted.notified());
                    if idle.await.is_ok() {
                        tokio::time::sleep(GROUP_COMMIT).await;
                    }
                }
            }
            self.sync().await;
            self.seal_if_wanted();
            self.look_after();
        }
    }

    async fn sync(&self) {
        let upto = self.written.get();
        if self.synced.get() >= upto {
            return;
        }
        let others = std::mem::take(&mut *self.unsynced.borrow_mut());
        let current = self.file.borrow().as_ref().map(|current| current.file.clone());
        let synced = tokio::task::spawn_blocking(move || {
            others.iter().try_for_each(|file| file.sync_all())?;
            current.map_or(Ok(()), |file| file.sync_data())
        });
        if let Err(error) = synced.await.map_err(io::Error::other).flatten() {
            if let Some(directory) = &self.directory {
                directory.lost.store(true, SeqCst);
            }
            tracing::error!(%error, "the usage journal could not be brought to the disk");
        }
        // Waiting for a disk that fails would hang calls; the failure shows in readiness and the log instead.
        self.synced.set(upto);
        self.sync_done.notify_waiters();
    }

    fn seal_if_wanted(&self) {
        let mut current = self.file.borrow_mut();
        let Some(segment) = current.as_ref().map(|current| current.segment.clone()) else { return };
        // All of it is committed, and other workers may need the space.
        let idle = segment.mentions.load(SeqCst) == 0 && segment.directory.is_refusing();
        if !idle && !segment.seal_wanted.load(SeqCst) {
            return;
        }
        if self.reserved.get() == 0 {
            self.finish(current.take()); // no call is open: a full journal can be sealed too
        } else if let Err(error) = self.begin_segment(&mut current, &segment.directory, 0) {
            tracing::warn!(%error, "no new journal segment could be begun");
        }
    }

    /// Makes `needed` bytes free besides what is promised, in this segment or the next.
    fn make_room(
        &self,
        current: &mut Option<Current>,
        directory: &Arc<Directory>,
        needed: u64,
    ) -> Result<(), JournalError> {
        let full = current.as_ref().is_none_or(|current| current.position >= SEGMENT);
        if full && self.begin_segment(current, directory, needed).is_ok() {
            return Ok(());
        }
        let Some(old) = current else { return self.begin_segment(current, directory, needed) };
        let wanted = old.position + self.reserved.get() + needed;
        if wanted <= old.allocated {
            return Ok(());
        }
        let more = (wanted - old.allocated).next_multiple_of(GROWTH);
        match allocate(&old.file, &old.segment, old.allocated, more) {
            Ok(()) => old.allocated += more,
            // All that the segment holds is committed: its space is what there is.
            Err(JournalError::Full) if old.segment.mentions.load(SeqCst) == 0 => {
                self.finish(current.take());
                return self.begin_segment(current, directory, needed);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn begin_segment(
        &self,
        current: &mut Option<Current>,
        directory: &Arc<Directory>,
        needed: u64,
    ) -> Result<(), JournalError> {
        let number = self.next_segment.get();
        let Directory { path, instance, .. } = &**directory;
        let path = path.join(format!("{instance}-{:03}-{number:08}.journal", self.worker));
        let file = private_file(&path)?;
        let segment = Arc::new(Segment {
            path,
            directory: directory.clone(),
            size: AtomicU64::new(0),
            mentions: AtomicU32::new(0),
            spilled: AtomicU32::new(0),
            sealed: AtomicBool::new(false),
            seal_wanted: AtomicBool::new(false),
        });
        let allocated = (self.reserved.get() + needed).max(1).next_multiple_of(GROWTH);
        if let Err(error) = allocate(&file, &segment, 0, allocated) {
            let _gone = std::fs::remove_file(&segment.path);
            return Err(error);
        }
        self.next_segment.set(number + 1);
        self.unsynced.borrow_mut().push(directory.folder.clone());
        let file = Arc::new(file);
        self.finish(current.replace(Current { file, segment, position: 0, allocated }));
        Ok(())
    }

    /// Nothing more is written to this segment.
    fn finish(&self, old: Option<Current>) {
        let Some(old) = old else { return };
        self.unsynced.borrow_mut().push(old.file);
        old.segment.sealed.store(true, SeqCst);
        old.segment.delete_if_done();
    }

    fn append(&self, current: &mut Current, record: &[u8]) -> io::Result<()> {
        current.file.write_all_at(record, current.position)?;
        current.position += record.len() as u64;
        self.written.set(self.written.get() + 1);
        Ok(())
    }
}

fn allocate(file: &File, segment: &Segment, from: u64, more: u64) -> Result<(), JournalError> {
    let directory = &segment.directory;
    if directory.bytes.fetch_add(more, SeqCst) + more > directory.max_bytes {
        directory.bytes.fetch_sub(more, SeqCst);
        return Err(JournalError::Full);
    }
    let allocated =
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), from, more) {
            // Some file systems cannot: written zeros take the space as well.
            Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(file, from, more),
            other => other.map_err(io::Error::from),
        };
    if let Err(error) = allocated {
        directory.bytes.fetch_sub(more, SeqCst);
        return Err(error.into());
    }
    segment.size.fetch_add(more, SeqCst);
    Ok(())
}

fn write_zeros(file: &File, from: u64, more: u64) -> io::Result<()> {
    let zeros = vec![0; GROWTH as usize];
    (from..from + more).step_by(zeros.len()).try_for_each(|at| file.write_all_at(&zeros, at))
}

#[cfg(test)]
mod tests;
