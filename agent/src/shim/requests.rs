//! What a connection may ask of the shim, and who drives.

use prost::Message;
use stratavore_proto::v1;

use super::program::INPUT_MAX;
use super::screen::Size;
use super::serve::Shim;
use super::viewer::Viewer;
use super::wire::{self, PROTOCOL_MAX, PROTOCOL_MIN, kind};

/// Longest viewer name kept: names are shown to others.
const NAME_MAX: usize = 64;

impl Shim {
    /// Carries out one frame of connection `at`.
    pub(super) fn request(&mut self, at: usize, frame_kind: u8, body: &[u8]) {
        if !self.clients[at].greeted && frame_kind != kind::HELLO {
            self.clients[at].dead = true;
            return;
        }
        match frame_kind {
            kind::HELLO => self.hello(at, body),
            kind::WATCH => {
                self.clients[at].watching = true;
                self.tell_watchers();
            }
            kind::ATTACH => self.with(at, body, Self::attach),
            kind::INPUT => self.input(at, body),
            kind::RESIZE => self.with(at, body, Self::resize),
            kind::CLOSE_INPUT => self.close_input(at),
            kind::TAKE_DRIVER => self.take_driver(at),
            kind::STOP => self.with(at, body, |shim, at, stop: wire::Stop| {
                shim.stop(stop.force, &stop.reason);
                shim.done(at);
            }),
            kind::SCREEN => self.screen_text(at),
            kind::TYPE => self.with(at, body, Self::type_in),
            kind::REAP => self.reap_request(at),
            kind::LEASE => self.with(at, body, Self::set_lease),
            unknown => {
                self.clients[at].refuse("unknown_request", &format!("this shim knows no request {unknown}"))
            }
        }
    }

    fn with<M: Message + Default>(&mut self, at: usize, body: &[u8], act: impl FnOnce(&mut Self, usize, M)) {
        match M::decode(body) {
            Ok(message) => act(self, at, message),
            Err(error) => self.clients[at].refuse("bad_request", &error.to_string()),
        }
    }

    fn hello(&mut self, at: usize, body: &[u8]) {
        let hello = wire::Hello::decode(body).unwrap_or_default();
        let protocol = hello.protocol_max.min(PROTOCOL_MAX);
        if protocol < hello.protocol_min || protocol < PROTOCOL_MIN {
            let message = format!("this shim speaks protocol {PROTOCOL_MIN} to {PROTOCOL_MAX}");
            return self.clients[at].refuse("protocol", &message);
        }
        self.clients[at].greeted = true;
        let viewers = self.clients.iter().filter(|client| client.viewer.is_some()).count();
        self.state.refresh(self.log.end(), viewers);
        let welcome = wire::Welcome {
            protocol,
            status: Some(self.state.record().clone()),
            lease: Some(self.deadline.lease()),
        };
        self.clients[at].push(wire::frame(kind::WELCOME, &welcome));
    }

    fn done(&mut self, at: usize) {
        self.clients[at].push(wire::raw_frame(kind::DONE, &[]));
    }

    /// Opens a viewer: the size is set first, so that the snapshot has it already.
    fn attach(&mut self, at: usize, attach: wire::Attach) {
        let open = attach.open.unwrap_or_default();
        let name: String = attach.viewer.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect();
        if self.clients[at].viewer.is_some() {
            return self.clients[at].refuse("bad_request", "this connection is attached already");
        }
        let drives = !open.observe && (self.driver.is_none() || open.steal);
        if !open.observe && !drives {
            let message = format!("{} drives this runner; observe it, or take over", self.driver_name());
            return self.clients[at].refuse("driver_taken", &message);
        }
        let id = self.clients[at].id;
        self.clients[at].viewer = Some(self.viewer(&open, name));
        if drives {
            self.driver = Some(id);
            if let Some(size) = open.size {
                self.set_size(Size::clamped(size.rows, size.cols));
            }
        }
        let ready = v1::AttachReady {
            epoch: self.state.record().observation.as_ref().and_then(|observation| observation.epoch),
            driver: drives,
            size: self.screen.as_ref().map(|screen| screen.size().wire()),
            tty: self.screen.is_some(),
            driver_name: self.driver_name(),
        };
        self.clients[at].push(wire::frame(kind::READY, &ready));
        if open.raw && open.from_offset.is_none() {
            // Says where "now" is: a viewer that loses its connection before any output goes on from here.
            self.clients[at].push(wire::output_frame(self.log.end(), wire::Stream::Out, &[]));
        }
        if drives {
            self.tell_driver(Some(at));
        }
        self.tell_watchers();
    }

    fn viewer(&self, open: &v1::AttachOpen, name: String) -> Viewer {
        let (end, tty) = (self.log.end(), self.screen.is_some());
        let from_log = |from| Viewer::from_log(name.clone(), open.raw || !tty, &self.log_dir, from);
        match open.from_offset {
            Some(from) if from <= end && (from >= self.log.oldest() || open.raw || !tty) => from_log(from),
            _ if open.raw || !tty => from_log(end),
            _ => Viewer::from_snapshot(name),
        }
    }

    fn input(&mut self, at: usize, body: &[u8]) {
        if self.drives(at) {
            self.program.type_in(body);
        }
    }

    fn resize(&mut self, at: usize, size: v1::WindowSize) {
        if self.drives(at) {
            self.set_size(Size::clamped(size.rows, size.cols));
        }
    }

    fn close_input(&mut self, at: usize) {
        if self.drives(at) {
            self.program.close_input();
        }
    }

    /// Input and size come from the driver alone; everybody else is told so.
    fn drives(&mut self, at: usize) -> bool {
        let drives = self.driver == Some(self.clients[at].id);
        if !drives {
            let frame = self.driver_frame(at);
            self.clients[at].push(frame);
        }
        drives
    }

    fn take_driver(&mut self, at: usize) {
        if self.clients[at].viewer.is_none() {
            return self.clients[at].refuse("bad_request", "attach first");
        }
        self.set_driver(Some(self.clients[at].id));
    }

    /// Hands the wheel to one connection, or to nobody. The size stays until the new driver says another.
    pub(super) fn set_driver(&mut self, driver: Option<u64>) {
        if self.driver != driver {
            self.driver = driver;
            self.tell_driver(None);
        }
    }

    fn tell_driver(&mut self, except: Option<usize>) {
        for at in (0..self.clients.len()).filter(|at| Some(*at) != except) {
            if self.clients[at].viewer.is_some() {
                let frame = self.driver_frame(at);
                self.clients[at].push(frame);
            }
        }
    }

    pub(super) fn driver_frame(&self, at: usize) -> Vec<u8> {
        let driver = self.driver == Some(self.clients[at].id);
        wire::frame(kind::DRIVER, &v1::AttachDriver { driver, driver_name: self.driver_name() })
    }

    fn driver_name(&self) -> String {
        let driving = self.clients.iter().find(|client| Some(client.id) == self.driver);
        driving
            .and_then(|client| client.viewer.as_ref())
            .map(|viewer| viewer.name.clone())
            .unwrap_or_default()
    }

    /// The driver's size is the terminal's. Others get the new picture, since theirs was drawn for the old size.
    fn set_size(&mut self, size: Size) {
        let Some(screen) = &mut self.screen else { return };
        if screen.size() == size {
            return;
        }
        screen.resize(size);
        self.program.resize(size);
        self.log.resize(size.rows, size.cols);
        let driver = self.driver;
        for client in self.clients.iter_mut().filter(|client| Some(client.id) != driver) {
            client.refresh();
        }
    }

    fn screen_text(&mut self, at: usize) {
        match &mut self.screen {
            Some(screen) => {
                let frame = wire::frame(kind::SCREEN_TEXT, &screen.text());
                self.clients[at].push(frame);
            }
            None => self.clients[at].refuse("no_terminal", "this runner has pipes, not a terminal"),
        }
    }

    /// Input without attaching.
    fn type_in(&mut self, at: usize, input: wire::Type) {
        if self.finished {
            return self.clients[at].refuse("runner_ended", "the command has ended");
        }
        if self.driver.is_some() && !input.steal {
            let message = format!("{} drives this runner", self.driver_name());
            return self.clients[at].refuse("driver_taken", &message);
        }
        if self.program.pending_input() + input.data.len() > 2 * INPUT_MAX {
            return self.clients[at].refuse("input_full", "the program does not read its input");
        }
        if self.program.type_in(&input.data) {
            self.done(at);
        } else {
            self.clients[at].refuse("input_closed", "the program's input is closed");
        }
    }

    /// The end has been acknowledged: nothing is left to serve.
    fn reap_request(&mut self, at: usize) {
        if self.finished {
            self.done(at);
            self.reaped = true;
            self.linger();
        } else {
            self.clients[at].refuse("running", "the command has not ended");
        }
    }
}
