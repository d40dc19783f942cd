//! Writing into a pipe that an argument names. To open one without a reader waits for one without an end, so what is waited for is bounded
//! here, as it is in [`super::reading`].

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// One wait for a reader, in milliseconds.
const TURN: i64 = 50;
/// How often a pipe that no program has opened for reading is tried: 5 seconds.
const TURNS_WITHOUT_READER: u32 = 100;
/// How often a reader that reads nothing is waited for: a minute.
const TURNS_WITHOUT_READING: u32 = 1_200;

const fn turn() -> Timespec {
    Timespec {
        tv_sec: 0,
        tv_nsec: TURN * 1_000_000,
    }
}

/// Writes all of it into a pipe.
///
/// # Errors
/// What the system says; that no program reads the pipe.
pub(super) fn write_pipe(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut pipe = open(path)?;
    let (mut rest, mut turns) = (content, 0);
    while !rest.is_empty() {
        match pipe.write(rest) {
            Ok(written) => {
                rest = &rest[written..];
                turns = 0;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && turns < TURNS_WITHOUT_READING => {
                turns += 1;
                poll(
                    &mut [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::OUT)],
                    Some(&turn()),
                )?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(Error::other("it is a pipe whose reader has read nothing for a minute"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn open(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    for _ in 0..TURNS_WITHOUT_READER {
        match options.open(path) {
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                poll(&mut [], Some(&turn()))?;
            }
            opened => return opened,
        }
    }
    Err(Error::other(
        "it is a pipe that no program has opened for reading within 5 seconds; start first what reads it, or name a file",
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn pipe() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        (folder, path)
    }

    #[test]
    fn a_pipe_is_written_whole_to_a_reader_that_comes_late() {
        let (_folder, path) = pipe();
        // More than a pipe holds, so that the writer waits for the reader.
        let content = vec![b'x'; 300_000];
        let length = content.len();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || write_pipe(&path, &content)
        });
        let mut read = Vec::new();
        File::open(&path).unwrap().read_to_end(&mut read).unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(read.len(), length);
    }

    #[test]
    fn a_pipe_without_a_reader_is_refused() {
        let (_folder, path) = pipe();
        let refused = super::super::replace(&path, b"x", 0o600).unwrap_err().to_string();
        assert!(
            refused.contains("no program has opened for reading within 5 seconds"),
            "{refused}"
        );
    }
}
