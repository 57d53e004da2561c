//! The usage journal: an append-only file for each HTTP worker, written in line by that worker. A call is opened here
//! before it goes upstream and closed here before its last byte reaches the client, so that a killed process loses
//! no finished call. The recorder gets every closed call as a message too; once its row is committed, the receipt
//! that came with it lets the file go.
//!
//! A worker's file is a row of segments. A segment is deleted when it is full and no call that it mentions is still
//! to be committed. Space for a call's final record is allocated when the call is opened: a full disk refuses new
//! calls and loses no open one.

pub mod record;
pub mod recovery;

use std::{
    cell::{Cell, RefCell},
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::TokenCounts;
use crate::{
    db::{self, usage::NewUsage},
    settings::{Fsync, OnFull},
};
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

/// What all workers and the recorder share: the directory, this instance's lock on its files, and their size.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    instance: String,
    /// Held as long as the process lives; another process that can lock it knows that this one is gone.
    lock: File,
    lock_path: PathBuf,
    /// The directory itself, to bring new files' names to the disk.
    folder: Arc<File>,
    /// Set at the end of a shutdown: what is left is for whoever starts next.
    left: AtomicBool,
    max_bytes: u64,
    bytes: AtomicU64,
    /// Calls opened and not yet committed.
    depth: AtomicU64,
    /// Workers whose last attempt to open a call failed.
    refusing: AtomicUsize,
    /// The files are gone or the disk failed: nothing more is taken until a restart.
    lost: AtomicBool,
    /// Segments with rows that left memory. Locked when a receipt is dropped, which is rare, and by the recorder.
    spilled: Mutex<Vec<Arc<Segment>>>,
}

impl Directory {
    /// Makes the directory (mode 0700) and takes this instance's lock in it.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(path: &Path, max_bytes: u64) -> io::Result<Arc<Self>> {
        db::private_directory(path)?;
        let instance = uuid::Uuid::now_v7().simple().to_string();
        let lock_path = path.join(format!("{instance}.lock"));
        // Nobody may find it before it is locked.
        let new = path.join(format!("{instance}.new"));
        let lock = private_file(&new)?;
        lock.try_lock().map_err(io::Error::from)?;
        std::fs::rename(&new, &lock_path)?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            instance,
            lock,
            folder: Arc::new(File::open(path)?),
            left: AtomicBool::new(false),
            lock_path,
            max_bytes,
            bytes: AtomicU64::new(0),
            depth: AtomicU64::new(0),
            refusing: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
            spilled: Mutex::default(),
        }))
    }

    /// Bytes that the files of this instance take.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(SeqCst)
    }

    /// Calls that are open, or closed and not yet in the database.
    pub fn depth(&self) -> u64 {
        self.depth.load(SeqCst)
    }

    /// Whether new calls are refused because the journal cannot take them.
    pub fn is_refusing(&self) -> bool {
        self.refusing.load(SeqCst) > 0 || self.lost.load(SeqCst)
    }

    /// The segments whose rows must be read back, each once. They stay on the list until they are taken off it.
    pub fn spilled(&self) -> Vec<Arc<Segment>> {
        self.spilled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add_spilled(&self, segment: &Arc<Segment>) {
        if self.left.load(SeqCst) {
            return;
        }
        let mut spilled = self.spilled.lock().unwrap_or_else(PoisonError::into_inner);
        if !spilled.iter().any(|known| Arc::ptr_eq(known, segment)) {
            spilled.push(segment.clone());
        }
    }

    /// The file of rows that the database refused, one JSON object a line.
    pub fn rejects(&self) -> PathBuf {
        self.path.join("rejected.jsonl")
    }

    /// Leaves the files, with what is not committed, to whoever starts next.
    pub fn leave(&self) {
        self.left.store(true, SeqCst);
        self.spilled.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "the journal's lock is given up when the process ends");
        }
    }

    /// Removes this instance's files, the lock last: the process ends, and all that they hold is committed.
    pub fn remove_all(&self) {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        let own = entries.filter(|entry| {
            let name = entry.file_name();
            name.to_str()
                .is_some_and(|name| name.starts_with(&self.instance) && name.ends_with(".journal"))
        });
        for path in own.map(|entry| entry.path()).chain([self.lock_path.clone()]) {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%error, file = %path.display(), "a journal file could not be removed");
            }
        }
    }
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// One file of the journal. `mentions` counts what is still to be committed: a start and an end for each call.
#[derive(Debug)]
pub struct Segment {
    path: PathBuf,
    directory: Arc<Directory>,
    size: AtomicU64,
    mentions: AtomicU32,
    /// Mentions whose row was dropped from memory: it is read back from the file.
    spilled: AtomicU32,
    sealed: AtomicBool,
    seal_wanted: AtomicBool,
}

impl Segment {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is complete and all that it still mentions must be read back from it.
    pub fn is_ready_to_replay(&self) -> bool {
        self.sealed.load(SeqCst) && self.spilled.load(SeqCst) == self.mentions.load(SeqCst)
    }

    /// Asks the worker to go on in another file, so that this one can be replayed.
    pub fn want_seal(&self) {
        self.seal_wanted.store(true, SeqCst);
    }

    /// Deletes the file after its `calls` closed calls were committed by a replay.
    pub fn forget(&self, calls: u64) {
        let spilled = self.spilled.swap(0, SeqCst);
        self.mentions.fetch_sub(spilled, SeqCst);
        let directory = &self.directory;
        directory.depth.fetch_sub(calls.min(directory.depth()), SeqCst);
        let mut list = directory.spilled.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|known| !std::ptr::eq(Arc::as_ptr(known), self));
        drop(list);
        self.delete_if_done();
    }

    fn delete_if_done(&self) {
        let done = self.sealed.load(SeqCst) && self.mentions.load(SeqCst) == 0;
        // Two may see it done at once; the size is given back by one.
        if done {
            let size = self.size.swap(0, SeqCst);
            if size > 0 {
                self.directory.bytes.fetch_sub(size, SeqCst);
                if let Err(error) = std::fs::remove_file(&self.path) {
                    tracing::warn!(%error, "a finished journal segment could not be removed");
                }
            }
        }
    }
}

/// Comes with a row to the recorder. [`Receipt::release`] after the commit; dropped without it, the row stays in the
/// journal and is read back from there.
#[derive(Debug)]
pub struct Receipt {
    opened: Option<Arc<Segment>>,
    closed: Option<Arc<Segment>>,
}

impl Receipt {
    /// The row is committed: its records are needed no longer.
    pub fn release(mut self) {
        if let Some(opened) = &self.opened {
            opened.directory.depth.fetch_sub(1, SeqCst);
        }
        for segment in self.opened.take().into_iter().chain(self.closed.take()) {
            segment.mentions.fetch_sub(1, SeqCst);
            segment.delete_if_done();
        }
    }

    /// Whether the row can be read back: a call served without the journal (`on_full: best_effort`) cannot.
    pub fn is_in_journal(&self) -> bool {
        self.closed.is_some()
    }
}

impl Drop for Receipt {
    /// The row left memory without being committed: it is read back from the journal.
    fn drop(&mut self) {
        for segment in self.opened.take().into_iter().chain(self.closed.take()) {
            segment.spilled.fetch_add(1, SeqCst);
            segment.directory.add_spilled(&segment);
        }
    }
}

/// A call's place in the journal while it is open.
#[derive(Debug)]
pub struct Slot {
    segment: Option<Arc<Segment>>,
    reserved: u64,
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
            return Ok(Slot { segment: None, reserved: 0 });
        };
        let opened = match directory.lost.load(SeqCst) {
            true => Err(JournalError::Lost),
            false => self.try_open(row, directory),
        };
        self.note_refusal(directory, opened.as_ref().err());
        match opened {
            Err(_) if self.on_full == OnFull::BestEffort => Ok(Slot { segment: None, reserved: 0 }),
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
        current.segment.mentions.fetch_add(1, SeqCst);
        directory.depth.fetch_add(1, SeqCst);
        Ok(Slot { segment: Some(current.segment.clone()), reserved })
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
            if free >= record.len() as u64
                && let Err(error) = self.append(current, &record)
            {
                tracing::warn!(%error, "the progress of a stream was not written to the journal");
            }
        }
    }

    /// Closes a call: writes its final record into the space set aside for it.
    pub fn close(&self, slot: Slot, row: &NewUsage) -> Receipt {
        self.reserved.set(self.reserved.get().saturating_sub(slot.reserved));
        let mut receipt = Receipt { opened: slot.segment, closed: None };
        if receipt.opened.is_none() {
            return receipt;
        }
        let mut record = self.scratch.borrow_mut();
        record::encode(Kind::Close, row, &mut record);
        if let Some(current) = self.file.borrow_mut().as_mut() {
            match self.append(current, &record) {
                Ok(()) => {
                    current.segment.mentions.fetch_add(1, SeqCst);
                    receipt.closed = Some(current.segment.clone());
                }
                Err(error) => {
                    current.segment.directory.lost.store(true, SeqCst);
                    tracing::error!(%error, call_id = row.call_id, "a final record was not written to the journal");
                }
            }
        }
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
