//! The held-out reference for drawing: the same program, natively, in tmux.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::eventually::{SOON, eventually};
use crate::terminal::{Grid, size};

/// A private tmux server with one session. Ended when dropped.
#[derive(Debug)]
pub struct Tmux {
    socket: PathBuf,
    rows: u16,
    cols: u16,
}

impl Tmux {
    /// Starts `command` at that size without a status line; `None` when tmux is not installed.
    /// `home` also holds the server's socket. TERM inside is `term`.
    ///
    /// # Panics
    /// When tmux is there but does not start.
    #[must_use]
    pub fn start(home: &std::path::Path, term: &str, command: &[&str], rows: u16, cols: u16) -> Option<Self> {
        Command::new("tmux").arg("-V").output().ok()?;
        let socket = home.join(format!("tmux-{}", uuid::Uuid::new_v4().simple()));
        let tmux = Self { socket, rows, cols };
        let configuration = home.join("tmux.conf");
        let text = format!("set -g status off\nset -g default-terminal {term}\nset -g escape-time 0\n");
        std::fs::write(&configuration, text).expect("write tmux's configuration");
        let mut start = Command::new("tmux");
        start.arg("-S").arg(&tmux.socket).arg("-f").arg(&configuration).args(["new-session", "-d"]);
        start.arg("-x").arg(cols.to_string()).arg("-y").arg(rows.to_string()).args(command);
        start.env_clear().env("HOME", home).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        start.env("LANG", "C.UTF-8").env("TERM", "xterm-256color").env("SHELL", "/bin/sh").current_dir(home);
        let status = start.status().expect("start tmux");
        assert!(status.success(), "tmux new-session ended with {status}");
        Some(tmux)
    }

    fn ask(&self, arguments: &[&str]) -> Vec<u8> {
        let out =
            Command::new("tmux").arg("-S").arg(&self.socket).args(arguments).env("LANG", "C.UTF-8").output();
        out.expect("ask tmux").stdout
    }

    /// Types.
    pub fn type_bytes(&self, bytes: &[u8]) {
        let codes: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let mut arguments = vec!["send-keys", "-H"];
        arguments.extend(codes.iter().map(String::as_str));
        self.ask(&arguments);
    }

    /// Waits until its screen has not changed for `quiet`.
    ///
    /// # Panics
    /// When it goes on changing for a minute.
    #[track_caller]
    pub fn settles(&self, quiet: Duration) {
        let mut last = (self.grid(), Instant::now());
        eventually("tmux to settle", SOON, || {
            let now = self.grid();
            if now != last.0 {
                last = (now, Instant::now());
            }
            if last.1.elapsed() >= quiet { Ok(()) } else { Err("it is drawing") }
        });
    }

    /// Whether the program is on the alternate screen.
    #[must_use]
    pub fn alternate(&self) -> bool {
        self.ask(&["display-message", "-p", "#{alternate_on}"]).starts_with(b"1")
    }

    /// What its screen shows.
    #[must_use]
    pub fn grid(&self) -> Grid {
        let drawn = String::from_utf8_lossy(&self.ask(&["capture-pane", "-p", "-e", "-N"])).into_owned();
        let cursor =
            String::from_utf8_lossy(&self.ask(&["display-message", "-p", "#{cursor_y} #{cursor_x}"]))
                .into_owned();
        let (rows, cols) = size(self.rows, self.cols);
        let mut parser = vt100::Parser::new(rows, cols, 0);
        parser.process(drawn.trim_end_matches('\n').replace('\n', "\r\n").as_bytes());
        let mut grid = Grid::of(parser.screen());
        let mut numbers = cursor.split_whitespace().filter_map(|n| n.parse().ok());
        grid.cursor = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        grid
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.ask(&["kill-server"]);
    }
}
