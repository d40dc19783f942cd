//! Reading files that a setting or an argument names. Such a file may be a pipe: a shell makes one for `<(command)`, and an operator may
//! have made one by mistake. To open a pipe without a writer waits for one without an end, so what is waited for is bounded here.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Error, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

/// The longest text that a setting or an argument names, in octets: a bundle of certificates.
const LONGEST: u64 = 4 * 1024 * 1024;

/// One wait for a pipe, in milliseconds.
const TURN: i64 = 50;
/// How often a pipe that no program has opened for writing is waited for: 5 seconds.
const TURNS_WITHOUT_WRITER: u32 = 100;
/// How often a program that has a pipe open for writing is waited for without a word from it: a minute. It may ask a person for a
/// passphrase.
const TURNS_WITH_WRITER: u32 = 1_200;

/// A file that is open for reading.
#[derive(Debug)]
pub struct FileReading {
    file: File,
    /// What is known of its writer, if it is a pipe that was opened by its name.
    pipe: Option<Pipe>,
}

#[derive(Debug, Default)]
struct Pipe {
    /// Whether a program has it open for writing, or had.
    has_writer: bool,
    turns: u32,
}

impl FileReading {
    /// Opens a file.
    ///
    /// # Errors
    /// What the system says; that it is a socket.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let kind = path.metadata()?.file_type();
        if kind.is_socket() {
            return Err(Error::other("it is a socket; name a file"));
        }
        let mut options = OpenOptions::new();
        options.read(true);
        if kind.is_fifo() {
            options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        }
        Ok(Self {
            file: options.open(path)?,
            pipe: kind.is_fifo().then(Pipe::default),
        })
    }

    /// The file's owner, mode and kind.
    ///
    /// # Errors
    /// What the system says.
    pub fn metadata(&self) -> std::io::Result<Metadata> {
        self.file.metadata()
    }
}

impl From<File> for FileReading {
    /// What is open already, such as standard input, is read as it is.
    fn from(file: File) -> Self {
        Self { file, pipe: None }
    }
}

impl Read for FileReading {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Some(pipe) = self.pipe.as_mut().filter(|_| !buffer.is_empty()) else {
            return self.file.read(buffer);
        };
        loop {
            match self.file.read(buffer) {
                // The end, or that it has not begun.
                Ok(0) if !pipe.has_writer => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => pipe.has_writer = true,
                read => {
                    pipe.has_writer |= read.is_ok();
                    // However long it takes to write everything, as a backup that is unpacked.
                    pipe.turns = 0;
                    return read;
                }
            }
            pipe.wait(&self.file)?;
        }
    }
}

impl Pipe {
    fn wait(&mut self, file: &File) -> std::io::Result<()> {
        self.turns += 1;
        if !self.has_writer && self.turns > TURNS_WITHOUT_WRITER {
            return Err(Error::other(
                "it is a pipe that no program has opened for writing within 5 seconds; name a file, or start first what writes into the pipe",
            ));
        }
        if self.turns > TURNS_WITH_WRITER {
            return Err(Error::other(
                "it is a pipe whose writer has written nothing for a minute; name a file",
            ));
        }
        let turn = Timespec {
            tv_sec: 0,
            tv_nsec: TURN * 1_000_000,
        };
        let mut polled = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)];
        poll(&mut polled, Some(&turn))?;
        // A writer that came and went has written all that there is.
        self.has_writer |= polled[0].revents().contains(PollFlags::HUP);
        Ok(())
    }
}

/// The content of a text that a setting names: settings, certificates.
///
/// # Errors
/// What the system says; that it is a socket, a pipe without a writer, or longer than 4 MiB.
pub fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    read_from(FileReading::open(path)?)
}

/// The same of what is open already.
///
/// # Errors
/// What the system says; that it is longer than 4 MiB.
pub fn read_from(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    source.take(LONGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LONGEST {
        return Err(Error::other("it is longer than 4 MiB, which no such file is"));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn pipe(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        path
    }

    #[test]
    fn a_pipe_is_read_to_its_end_whenever_its_writer_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(folder.path());
        let mut reading = FileReading::open(&path).unwrap();
        let writer = {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut pipe = OpenOptions::new().write(true).open(path).unwrap();
                // More than a pipe holds, so that the writer waits for the reader.
                pipe.write_all(&vec![b'x'; 100_000]).unwrap();
                pipe.write_all(b"end").unwrap();
            })
        };
        let mut content = Vec::new();
        reading.read_to_end(&mut content).unwrap();
        writer.join().unwrap();
        assert_eq!(content.len(), 100_003);
        assert!(content.ends_with(b"end"));
    }

    #[test]
    fn a_writer_that_goes_on_is_read_however_often_it_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(folder.path());
        let mut reading = FileReading::open(&path).unwrap();
        let mut writer = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut octet = [0];
        for _ in 0..3 {
            reading.pipe.as_mut().unwrap().turns = TURNS_WITH_WRITER - 1;
            writer.write_all(b"x").unwrap();
            reading.read_exact(&mut octet).unwrap();
            assert_eq!(reading.pipe.as_ref().unwrap().turns, 0);
        }
        reading.pipe.as_mut().unwrap().turns = TURNS_WITH_WRITER;
        let refused = reading.read(&mut octet).unwrap_err().to_string();
        assert!(refused.contains("has written nothing for a minute"), "{refused}");
    }

    #[test]
    fn a_writer_that_writes_nothing_is_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(folder.path());
        let mut reading = FileReading::open(&path).unwrap();
        drop(OpenOptions::new().write(true).open(&path).unwrap());
        let mut content = Vec::new();
        assert_eq!(reading.read_to_end(&mut content).unwrap(), 0);
    }

    #[test]
    fn a_pipe_without_a_writer_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let refused = read(&pipe(folder.path())).unwrap_err().to_string();
        assert!(
            refused.starts_with("it is a pipe that no program has opened"),
            "{refused}"
        );
    }

    #[test]
    fn what_has_no_end_and_what_is_no_file_is_told() {
        assert!(read(Path::new("/dev/zero")).unwrap_err().to_string().contains("4 MiB"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(read(&path).unwrap_err().to_string(), "it is a socket; name a file");
        assert!(read(folder.path()).is_err());
        assert!(read(&folder.path().join("none")).is_err());
        assert_eq!(read(Path::new("/dev/null")).unwrap(), b"");
    }
}
