//! Reading journals back: those of instances that died, and segments of our own whose rows left memory.

use std::{
    collections::HashMap,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use super::{
    Directory,
    record::{self, Record},
};
use crate::{db::usage::NewUsage, usage::Outcome};

/// The files of an instance that is gone. Its lock is ours until this is dropped, so no other instance replays it.
#[derive(Debug)]
pub struct Orphan {
    _lock: File,
    lock_path: PathBuf,
    segments: Vec<PathBuf>,
}

/// Rows read back, and how many damaged records were passed over.
#[derive(Debug, Default)]
pub struct Recovered {
    pub rows: Vec<NewUsage>,
    pub damaged: usize,
}

/// The journals in the directory whose instance does not run any more.
///
/// # Errors
/// The file system's.
pub fn orphans(directory: &Directory) -> io::Result<Vec<Orphan>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(&directory.path)?.map(|entry| Ok(entry?.path())).collect()
    };
    let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    let mut orphans = Vec::new();
    for lock_path in list()? {
        let instance =
            name(&lock_path).and_then(|name| Some(name.strip_suffix(".lock")?.to_owned()));
        let Some(instance) = instance.filter(|instance| *instance != directory.instance) else {
            continue;
        };
        // It may have ended, and removed its lock, since the directory was read.
        let Ok(lock) = File::options().read(true).write(true).open(&lock_path) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        // Only now is it certain that no further file is begun.
        let is_its = |path: &PathBuf| {
            name(path).is_some_and(|name| name.starts_with(&instance) && name.ends_with(".journal"))
        };
        let mut segments: Vec<PathBuf> = list()?.into_iter().filter(is_its).collect();
        segments.sort();
        orphans.push(Orphan { _lock: lock, lock_path, segments });
    }
    Ok(orphans)
}

impl Orphan {
    /// Every call of the instance: closed ones as they ended, open ones as interrupted.
    ///
    /// # Errors
    /// The file system's.
    pub fn read(&self) -> io::Result<Recovered> {
        let mut recovered = Recovered::default();
        let mut open: HashMap<String, NewUsage> = HashMap::new();
        for path in &self.segments {
            let (records, damaged) = record::decode(&std::fs::read(path)?);
            recovered.damaged += damaged;
            for record in records {
                match record {
                    Record::Open(row) => {
                        open.insert(row.call_id.clone(), row);
                    }
                    Record::Progress(progress) => {
                        if let Some(row) = open.get_mut(&progress.call_id) {
                            let tokens = progress.tokens;
                            row.input_tokens = tokens.input;
                            row.output_tokens = tokens.output;
                            row.cache_write_tokens = tokens.cache_write;
                            row.cache_write_1h_tokens = tokens.cache_write_1h;
                            row.cache_read_tokens = tokens.cache_read;
                        }
                    }
                    Record::Close(row) => {
                        open.remove(&row.call_id);
                        recovered.rows.push(row);
                    }
                }
            }
        }
        recovered.rows.extend(open.into_values().map(|mut row| {
            Outcome::Interrupted.as_str().clone_into(&mut row.outcome);
            row.estimated = true;
            row
        }));
        Ok(recovered)
    }

    /// Deletes the files, the lock last, once the rows are committed.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(self) -> io::Result<()> {
        self.segments.iter().try_for_each(std::fs::remove_file)?;
        std::fs::remove_file(&self.lock_path)
    }
}

/// The closed calls in a segment of our own. Calls opened in it and closed elsewhere are found there.
///
/// # Errors
/// The file system's.
pub fn closed_calls(path: &Path) -> io::Result<Recovered> {
    let (records, damaged) = record::decode(&std::fs::read(path)?);
    let rows = records.into_iter().filter_map(|record| match record {
        Record::Close(row) => Some(row),
        Record::Open(_) | Record::Progress(_) => None,
    });
    Ok(Recovered { rows: rows.collect(), damaged })
}
