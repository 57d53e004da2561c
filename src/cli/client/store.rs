//! The file of tokens, one entry a service. Only its owner may read it; it is replaced as a whole, durably, and only
//! under a lock, so that any number of processes see either the old tokens or the new ones.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
    process::geteuid,
};
use serde::{Deserialize, Serialize};

use super::tokens::Services;
use crate::db;

const VERSION: u32 = 1;
/// No file of tokens is longer.
const LONGEST: u64 = 1 << 20;
/// Longer than a refresh with its second attempt takes.
pub const LOCK_WAIT: Duration = Duration::from_secs(45);
/// How often a lock that another process holds is tried.
const TRY_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("neither HOME nor BEDROCK_PROXY_TOKENS says where the tokens are")]
    NoPlace,
    #[error("{} is a symbolic link; name the file itself in BEDROCK_PROXY_TOKENS, or remove the link", .0.display())]
    Link(PathBuf),
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    #[error("{} can be read by others: chmod 600 {}", .0.display(), .0.display())]
    Open(PathBuf),
    #[error("{} belongs to another user; remove it, or name another file in BEDROCK_PROXY_TOKENS", .0.display())]
    Foreign(PathBuf),
    /// Without serde's own words: they can quote a token.
    #[error("{} is damaged (line {line}, column {column}); bedrock_proxy login URL moves it aside", path.display())]
    Damaged { path: PathBuf, line: usize, column: usize },
    #[error("{} has version {version}, which this bedrock_proxy does not know: update it", path.display())]
    Version { path: PathBuf, version: u64 },
    #[error("another bedrock_proxy has held {} for too long", .0.display())]
    Busy(PathBuf),
    #[error("{}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

#[derive(Serialize)]
struct Content<'a> {
    version: u32,
    services: &'a Services,
}

/// Where the tokens are.
#[derive(Debug, Clone)]
pub struct TokenFile(PathBuf);

impl TokenFile {
    /// The place that the environment names.
    ///
    /// # Errors
    /// [`StoreError::NoPlace`]
    pub fn from_environment() -> Result<Self, StoreError> {
        Self::placed(|name| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        })
    }

    fn placed(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Self, StoreError> {
        if let Some(path) = variable("BEDROCK_PROXY_TOKENS") {
            return Ok(Self(path));
        }
        // XDG Base Directory Specification: a relative path is to be ignored.
        let config = variable("XDG_CONFIG_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| Some(variable("HOME")?.join(".config")))
            .ok_or(StoreError::NoPlace)?;
        Ok(Self(config.join("bedrock-proxy/tokens.json")))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the file holds; nothing if there is none.
    ///
    /// # Errors
    /// Everything that makes the file unfit to be believed.
    pub fn read(&self) -> Result<Services, StoreError> {
        let path = || self.0.clone();
        let file = match open(&self.0) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Services::default()),
            Err(error) if is_link(&error) => return Err(StoreError::Link(path())),
            Err(source) => return Err(StoreError::Io { path: path(), source }),
        };
        let about = file.metadata().map_err(|source| StoreError::Io { path: path(), source })?;
        if !about.is_file() {
            return Err(StoreError::NotAFile(path()));
        }
        if about.uid() != geteuid().as_raw() {
            return Err(StoreError::Foreign(path()));
        }
        if about.permissions().mode() & 0o077 != 0 {
            return Err(StoreError::Open(path()));
        }
        let mut bytes = Vec::new();
        file.take(LONGEST)
            .read_to_end(&mut bytes)
            .map_err(|source| StoreError::Io { path: path(), source })?;
        self.parse(&bytes)
    }

    fn parse(&self, bytes: &[u8]) -> Result<Services, StoreError> {
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        #[derive(Deserialize)]
        struct Content {
            services: Services,
        }
        let damaged = |error: serde_json::Error| StoreError::Damaged {
            path: self.0.clone(),
            line: error.line(),
            column: error.column(),
        };
        let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version != u64::from(VERSION) {
            return Err(StoreError::Version { path: self.0.clone(), version });
        }
        let content: Content = serde_json::from_slice(bytes).map_err(damaged)?;
        Ok(content.services)
    }

    /// Makes this process the only one that may change the file, until the answer is dropped. It waits for
    /// another process `within` that time.
    ///
    /// # Errors
    /// [`StoreError::Busy`], or that there can be no lock.
    pub async fn lock(&self, within: Duration) -> Result<LockedFile<'_>, StoreError> {
        let path = self.beside("lock");
        let wrong = |source| StoreError::Io { path: path.clone(), source };
        db::private_directory(self.directory()).map_err(wrong)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags(OFlags::NOFOLLOW))
            .open(&path)
            .map_err(wrong)?;
        let locked = tokio::time::timeout(within, async {
            loop {
                match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                    Err(Errno::WOULDBLOCK | Errno::INTR) => tokio::time::sleep(TRY_AGAIN).await,
                    other => return other,
                }
            }
        });
        match locked.await {
            Ok(Ok(())) => Ok(LockedFile { file: self, _lock: lock }),
            Ok(Err(errno)) => Err(wrong(errno.into())),
            Err(_) => Err(StoreError::Busy(path)),
        }
    }

    fn directory(&self) -> &Path {
        self.0.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// The path with another ending: `tokens.json.lock`.
    fn beside(&self, ending: &str) -> PathBuf {
        let mut path = self.0.clone().into_os_string();
        path.push(".");
        path.push(ending);
        path.into()
    }
}

/// The file, while no other process may change it.
#[derive(Debug)]
pub struct LockedFile<'a> {
    file: &'a TokenFile,
    /// Closing it unlocks. The lock file stays: removing it would let two processes lock two files.
    _lock: File,
}

impl LockedFile<'_> {
    /// # Errors
    /// As [`TokenFile::read`].
    pub fn read(&self) -> Result<Services, StoreError> {
        self.file.read()
    }

    /// Replaces the file; when this returns, a power cut does not take the new tokens back.
    ///
    /// # Errors
    /// The file system's; the former file is still there then.
    pub fn write(&self, services: &Services) -> Result<(), StoreError> {
        let path = self.file.beside("new");
        self.replace(&path, services).map_err(|source| StoreError::Io { path, source })
    }

    fn replace(&self, temporary: &Path, services: &Services) -> io::Result<()> {
        let content = Content { version: VERSION, services };
        let mut bytes = serde_json::to_vec_pretty(&content)?;
        bytes.push(b'\n');
        // A process that was killed may have left one.
        match fs::remove_file(temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(temporary, &self.file.0)?;
        File::open(self.file.directory())?.sync_all()
    }

    /// Moves a damaged file aside; answers where it is now.
    ///
    /// # Errors
    /// The file system's.
    pub fn move_aside(&self) -> Result<PathBuf, StoreError> {
        let aside = self.file.beside("damaged");
        match fs::rename(&self.file.0, &aside) {
            Ok(()) => Ok(aside),
            Err(source) => Err(StoreError::Io { path: self.file.0.clone(), source }),
        }
    }
}

/// Opens without following a link, and without waiting for the other end of a pipe.
fn open(path: &Path) -> io::Result<File> {
    let wanted = flags(OFlags::NOFOLLOW | OFlags::NONBLOCK);
    OpenOptions::new().read(true).custom_flags(wanted).open(path)
}

fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

fn is_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

#[cfg(test)]
mod tests;
