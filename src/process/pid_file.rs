//! The pid file: whole or not there, and removed only while it is ours.

#![forbid(unsafe_code)]

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Removed on drop, unless another process has written its own pid meanwhile: the next generation of a restart does.
pub struct PidFile {
    path: PathBuf,
    text: String,
}

impl PidFile {
    /// Writes the file beside its place and moves it there, so that nobody reads half a pid.
    ///
    /// Errors: cause and remedy in words.
    pub fn write(path: &Path, pid: u32) -> Result<Self, String> {
        let text = format!("{pid}\n");
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{pid}.tmp"));
        // Of a process of this id that was killed.
        fs::remove_file(&temporary).ok();
        let written = create(Path::new(&temporary), &text);
        let written = written.and_then(|()| fs::rename(&temporary, path));
        match written {
            Ok(()) => Ok(Self { path: path.to_owned(), text }),
            Err(e) => {
                // It may not exist; what is wrong is said either way.
                fs::remove_file(&temporary).ok();
                Err(format!(
                    "the pid file {} cannot be written: {e}. Give --pid-file a path in a directory that this user may \
                     write to",
                    path.display()
                ))
            }
        }
    }

    fn is_ours(&self) -> io::Result<bool> {
        Ok(fs::read_to_string(&self.path)? == self.text)
    }
}

/// Only a new file: in a directory that others may write to, an existing name could be a link to somebody's file.
fn create(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes())
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let removed = match self.is_ours() {
            Ok(true) => fs::remove_file(&self.path),
            Ok(false) => Ok(()),
            Err(e) => Err(e),
        };
        if let Err(e) = removed {
            log::warn!("the pid file {} cannot be removed: {e}", self.path.display());
        }
    }
}
