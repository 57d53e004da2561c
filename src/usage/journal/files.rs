//! The files of the journal: the directory that all workers share, segments that know what they still hold for
//! somebody, and receipts that let them go.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use crate::db;

/// What all workers and the recorder share: the directory, this instance's lock on its files, and their size.
#[derive(Debug)]
pub struct Directory {
    pub(super) path: PathBuf,
    pub(super) instance: String,
    /// Held as long as the process lives; another process that can lock it knows that this one is gone.
    pub(super) lock: File,
    pub(super) lock_path: PathBuf,
    /// The directory itself, to bring new files' names to the disk.
    pub(super) folder: Arc<File>,
    /// Set at the end of a shutdown: what is left is for whoever starts next.
    pub(super) left: AtomicBool,
    pub(super) max_bytes: u64,
    pub(super) bytes: AtomicU64,
    /// Calls opened and not yet committed.
    pub(super) depth: AtomicU64,
    /// Workers whose last attempt to open a call failed.
    pub(super) refusing: AtomicUsize,
    /// The files are gone or the disk failed: nothing more is taken until a restart.
    pub(super) lost: AtomicBool,
    /// Segments with rows that left memory. Locked when a receipt is dropped, which is rare, and by the recorder.
    pub(super) spilled: Mutex<Vec<Arc<Segment>>>,
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

    /// The most that they may take.
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
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

    pub(super) fn add_spilled(&self, segment: &Arc<Segment>) {
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

pub(super) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// One file of the journal. `mentions` counts what is still to be committed: a start and an end for each call.
#[derive(Debug)]
pub struct Segment {
    pub(super) path: PathBuf,
    pub(super) directory: Arc<Directory>,
    pub(super) size: AtomicU64,
    pub(super) mentions: AtomicU32,
    /// Mentions whose row was dropped from memory: it is read back from the file.
    pub(super) spilled: AtomicU32,
    pub(super) sealed: AtomicBool,
    pub(super) seal_wanted: AtomicBool,
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

    /// A record that is still needed was written here.
    pub(super) fn mention(&self) {
        self.mentions.fetch_add(1, SeqCst);
    }

    /// That record is needed no longer.
    pub(super) fn unmention(&self) {
        self.mentions.fetch_sub(1, SeqCst);
        self.delete_if_done();
    }

    pub(super) fn delete_if_done(&self) {
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
    pub(super) opened: Option<Arc<Segment>>,
    pub(super) closed: Option<Arc<Segment>>,
}

impl Receipt {
    /// The row is committed: its records are needed no longer.
    pub fn release(mut self) {
        if let Some(opened) = &self.opened {
            opened.directory.depth.fetch_sub(1, SeqCst);
        }
        for segment in self.opened.take().into_iter().chain(self.closed.take()) {
            segment.unmention();
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
