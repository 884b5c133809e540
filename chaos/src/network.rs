//! A network of its own for every member of a farm: one bridge, and per member a namespace with one address on it.
//! Cables can be pulled, and single members hidden from each other. Needs root; loopback farms need none of this.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// The bridge has the first address of the network; members are counted from here.
const FIRST_MEMBER: u8 = 10;

/// Interface names are at most 15 characters long: a letter or two, these, and a member's number.
const TAG_CHARS: usize = 8;

/// A bridge with namespaces around it; taken away when dropped.
#[derive(Debug)]
pub struct Network {
    tag: String,
    /// The first three numbers of every address.
    prefix: [u8; 3],
    members: BTreeMap<String, u8>,
}

impl Network {
    /// Whether this process may make namespaces; else tests that need one say so and pass.
    #[must_use]
    pub fn is_possible() -> bool {
        rustix::process::geteuid().is_root()
            && Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_ok()
    }

    /// A bridge without members, on a private network that nobody else is likely to have.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn create() -> Self {
        let random = uuid::Uuid::new_v4();
        let [second, third, ..] = *random.as_bytes();
        let tag = random.simple().to_string()[..TAG_CHARS].to_owned();
        let network = Self { tag, prefix: [10, 64 + second % 64, third], members: BTreeMap::new() };
        let bridge = network.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"]);
        let address = format!("{}/24", network.address(1));
        ip(&["address", "add", &address, "dev", &bridge]);
        ip(&["link", "set", &bridge, "up"]);
        network
    }

    /// Adds a member, or finds it again; its name and its address.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn join(&mut self, name: &str) -> (String, IpAddr) {
        if let Some(number) = self.members.get(name) {
            return (name.to_owned(), self.address(*number));
        }
        let number = FIRST_MEMBER + u8::try_from(self.members.len()).expect("fewer than 240 members");
        self.members.insert(name.to_owned(), number);
        let (space, outer, inner) = (self.space(name), self.cable(name), format!("i{}{number}", self.tag));
        ip(&["netns", "add", &space]);
        ip(&["link", "add", &outer, "type", "veth", "peer", "name", &inner]);
        ip(&["link", "set", &inner, "netns", &space]);
        ip(&["link", "set", &outer, "master", &self.bridge(), "up"]);
        let address = format!("{}/24", self.address(number));
        ip(&["-n", &space, "address", "add", &address, "dev", &inner]);
        ip(&["-n", &space, "link", "set", "lo", "up"]);
        ip(&["-n", &space, "link", "set", &inner, "up"]);
        (name.to_owned(), self.address(number))
    }

    /// A command that runs as that member: only its network differs, and it keeps its process id.
    ///
    /// # Panics
    /// When there is no such member.
    #[must_use]
    pub fn command(&self, name: &str, program: &Path) -> Command {
        assert!(self.members.contains_key(name), "{name} is not on this network");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.space(name))).arg(program);
        command
    }

    /// Pulls the member's cable.
    ///
    /// # Panics
    /// When there is no such member.
    pub fn cut(&self, name: &str) {
        ip(&["link", "set", &self.cable(name), "down"]);
    }

    /// Puts the member's cable back.
    ///
    /// # Panics
    /// When there is no such member.
    pub fn heal(&self, name: &str) {
        ip(&["link", "set", &self.cable(name), "up"]);
    }

    /// From now on two members see nothing of each other, and everything else as before.
    ///
    /// # Panics
    /// When one of them is not on this network.
    pub fn part(&self, one: &str, other: &str) {
        self.route("add", one, other);
        self.route("add", other, one);
    }

    /// Undoes [`Self::part`].
    ///
    /// # Panics
    /// When they were not parted.
    pub fn join_again(&self, one: &str, other: &str) {
        self.route("del", one, other);
        self.route("del", other, one);
    }

    fn route(&self, what: &str, from: &str, to: &str) {
        let hidden = format!("{}/32", self.address(self.number(to)));
        ip(&["-n", &self.space(from), "route", what, "blackhole", &hidden]);
    }

    fn number(&self, name: &str) -> u8 {
        *self.members.get(name).unwrap_or_else(|| panic!("{name} is not on this network"))
    }

    fn address(&self, number: u8) -> IpAddr {
        let [a, b, c] = self.prefix;
        [a, b, c, number].into()
    }

    fn bridge(&self) -> String {
        format!("b{}", self.tag)
    }

    fn space(&self, name: &str) -> String {
        format!("svx-{}-{name}", self.tag)
    }

    fn cable(&self, name: &str) -> String {
        format!("o{}{}", self.tag, self.number(name))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in self.members.keys() {
            // The cable goes with its namespace, once nobody is left in it; it is removed by hand all the same.
            quietly(&["link", "del", &self.cable(name)]);
            quietly(&["netns", "del", &self.space(name)]);
        }
        quietly(&["link", "del", &self.bridge()]);
    }
}

fn quietly(arguments: &[&str]) -> bool {
    let status = Command::new("ip").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("run ip");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {said}", arguments.join(" "));
}
