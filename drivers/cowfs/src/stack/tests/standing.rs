//! What was listed may be said again only where nobody could tell the difference.

use std::cell::Cell;

use super::*;
use crate::export::ExportId;
use crate::nfs::ops::{self, Context, Procedure};
use crate::nfs::pages::Pages;
use crate::nfs::replay::Recent;
use crate::nfs::xdr::Writer;
use crate::service::Stamp;
use crate::testing::{lower, upper};

const EXPORT: ExportId = ExportId([7; 8]);

/// The whole result of a READDIRPLUS or READDIR.
pub(super) fn listed(
    stack: &Stack,
    pages: &Pages,
    caller: &Caller,
    dir: &Handle,
    (cookie, room, with_objects): (u64, u32, bool),
) -> Vec<u8> {
    let mut arguments = Writer::default();
    let (handle, len) = EXPORT.join(dir);
    arguments.opaque(&handle[..len]);
    arguments.u64(cookie);
    arguments.u64(0);
    arguments.u32(room);
    arguments.u32(room);
    let procedure = if with_objects {
        Procedure::ReadDirPlus
    } else {
        Procedure::ReadDir
    };
    let context = Context {
        service: stack,
        export: EXPORT,
        caller,
        key: None,
        recent: &Recent::default(),
        pages,
    };
    let mut reply = Writer::default();
    ops::answer(&context, procedure, arguments.buffer(), &mut reply).expect("good arguments");
    reply.into_bytes()
}

/// A listing of a directory that was handed out, and how often it is said again.
struct Watched<'a> {
    world: &'a World,
    dir: Handle,
    names: Vec<String>,
    stamp: Stamp,
}

impl<'a> Watched<'a> {
    fn new(world: &'a World, path: &str) -> Self {
        let dir = world.handle(path);
        let mut names = Vec::new();
        let mut visit = |entry: &crate::service::ListedEntry| {
            names.push(String::from_utf8_lossy(&entry.name).into_owned());
            true
        };
        let listed = world
            .stack
            .readdir_stamped(&world.root, &dir, 0, true, &mut visit)
            .expect("listing");
        Self {
            world,
            dir,
            names,
            stamp: listed.2.expect("a stamp"),
        }
    }

    /// The names of entries whose attributes had to be looked at, with what they are; `None` if the listing does not stand.
    fn again(&self, caller: &Caller) -> Option<Vec<(&str, Attr)>> {
        let mut changed = Vec::new();
        let mut note = |at: usize, object: &Object| changed.push((&*self.names[at], object.attr));
        self.world
            .stack
            .stands(caller, &self.dir, &self.stamp, &mut note)?;
        Some(changed)
    }

    fn looked_at(&self) -> Option<Vec<&str>> {
        let mut names: Vec<&str> = self
            .again(&self.world.root)?
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        names.sort_unstable();
        Some(names)
    }
}

#[test]
fn a_listing_stands_until_its_names_change() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = world(dir.path(), 1, &[&upper(), &lower()]);
    let change = |what: &dyn Fn(), stands: bool| {
        let etc = Watched::new(&world, "etc");
        assert!(etc.looked_at().is_some(), "nothing has happened");
        what();
        assert_eq!(etc.looked_at().is_some(), stands);
    };
    let create = |path: &str| {
        world.create(path);
    };
    // Elsewhere.
    change(&|| create("bin/new"), true);
    change(&|| world.remove("bin/new").expect("removing"), true);
    change(&|| world.write("a", 5, b"changed", Stability::FileSync), true);
    // Here.
    change(&|| create("etc/new"), false);
    change(&|| world.remove("etc/new").expect("removing"), false);
    change(&|| world.rename("a", "etc/here").expect("renaming"), false);
    change(&|| world.rename("etc/here", "a").expect("renaming"), false);
    change(&|| world.link("a", "etc/link").expect("linking"), false);
    // What was never changed before is changed, which moves no name; what is in it then changes for itself alone.
    change(
        &|| world.write("etc/sub/a", 0, b"changed", Stability::FileSync),
        false,
    );
    change(
        &|| world.write("etc/sub/c", 0, b"changed", Stability::FileSync),
        true,
    );
    // And it is itself moved: another directory is above.
    let sub = Watched::new(&world, "etc/sub");
    world.rename("etc/sub", "moved").expect("renaming");
    assert_eq!(sub.looked_at(), None);
}

#[test]
fn what_may_have_changed_is_looked_at_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = world(dir.path(), 1, &[&upper(), &lower()]);
    world.write("etc/sub/a", 0, b"now it has a record", Stability::FileSync);
    let sub = Watched::new(&world, "etc/sub");
    // `perl` has other names, in other directories.
    let watched = sub.looked_at().expect("it stands");
    assert!(watched.contains(&"a") && watched.contains(&"perl"), "{watched:?}");
    assert!(!watched.contains(&"c"), "{watched:?}");
    for len in [100_u64, 5000, 7] {
        let set = SetAttr {
            size: Some(len),
            ..SetAttr::default()
        };
        world.set("etc/sub/a", &set).expect("setattr");
        let looked_at = sub.again(&world.root).expect("it stands");
        let size = looked_at
            .iter()
            .find(|(name, _)| *name == "a")
            .map(|(_, attr)| attr.size);
        assert_eq!(size, Some(len));
    }
    // Somebody who may not list it is told so by the usual way.
    let set = SetAttr {
        mode: Some(0o700),
        ..SetAttr::default()
    };
    world.set("etc/sub", &set).expect("setattr");
    let stranger = Caller {
        uid: 5,
        gid: 5,
        groups: vec![],
    };
    let sub = Watched::new(&world, "etc/sub");
    assert!(sub.again(&stranger).is_none());
    assert!(sub.again(&world.root).is_some());
}

#[test]
fn many_who_list_what_others_change_are_told_what_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = world(dir.path(), 1, &[&upper(), &lower()]);
    let pages = Pages::default();
    let root = world.handle("etc/sub");
    let rounds = Cell::new(0);
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            for round in 0..300_u64 {
                world.write("etc/sub/a", round, b"x", Stability::Unstable);
                world.create("etc/sub/new");
                world.remove("etc/sub/new").expect("removing");
            }
        });
        while !changing.is_finished() {
            let question = (0, 65_536, true);
            let reply = listed(&world.stack, &pages, &world.root, &root, question);
            // Whole, whatever happens meanwhile: status and "end of directory".
            assert_eq!(
                (&reply[..4], &reply[reply.len() - 4..]),
                (&[0; 4][..], &[0, 0, 0, 1][..])
            );
            rounds.set(rounds.get() + 1);
        }
    });
    assert!(rounds.get() > 0);
    let question = (0, 65_536, true);
    assert_eq!(
        listed(&world.stack, &pages, &world.root, &root, question),
        listed(&world.stack, &Pages::default(), &world.root, &root, question),
    );
}
