//! Well-formed calls with hostile handles, names and numbers over several exports. A stack and a plain tree in memory
//! are asked the same, through the same server; they must give the same answers, but for identity and times.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use cowfs::attr::{FileType, SetAttr};
use cowfs::export::{ClientAddress, Export, ExportName, State};
use cowfs::memory::Memory;
use cowfs::nfs::client::{Client, ClientError};
use cowfs::nfs::ops::{self, Procedure};
use cowfs::server::Server;
use cowfs::service::{Caller, CreateMode, FileService, Handle, Stability, Status};
use cowfs::stack::{self, StackSpec};
use cowfs::writable::{Options, Writable, WritableError};

use crate::arguments::{Part, arguments, joined};
use crate::input::Input;
use crate::reply::{Reply, decode};
use crate::support::{self, NoContent, client_of, lower, server, upper};
use crate::testing::{copy, listed};

/// Calls of one run.
const STEPS_MAX: usize = 64;

/// Objects whose handles are kept.
const KNOWN_MAX: usize = 48;

/// In no reply that this peer may see.
const SECRET: &[u8] = b"FOREIGN-SECRET";

/// One object, as the stack and as the model call it.
#[derive(Clone)]
struct Pair {
    stack: Vec<u8>,
    model: Vec<u8>,
}

/// A handle that was not handed out for the tree it is sent to, and the export that may answer it.
struct Hostile {
    bytes: Vec<u8>,
    /// It is right, for another export of the same client.
    other: bool,
}

struct World {
    server: Arc<Server>,
    dir: tempfile::TempDir,
    epoch: u64,
    model: Arc<Memory>,
    other: Vec<u8>,
    foreign: Vec<Vec<u8>>,
    known: Vec<Pair>,
    /// Inode numbers of the stack by those of the model.
    ids: HashMap<u64, u64>,
}

/// Runs one input.
pub(crate) fn run(data: &[u8]) {
    support::block_on(async {
        let mut input = Input::new(data);
        let mut world = World::new();
        world.play(&mut input).await;
        world.close().await;
    });
}

fn open_stack(dir: &Path, epoch: u64) -> Arc<dyn FileService> {
    Writable::create_if_missing(dir).expect("making the layer");
    let mut opened = Writable::open(dir, epoch, Options::default());
    // The thread that ran the last call lets go of the tree just after its reply.
    while matches!(opened, Err(WritableError::Busy { .. })) {
        std::thread::yield_now();
        opened = Writable::open(dir, epoch, Options::default());
    }
    let writable = opened.expect("opening the layer");
    let spec = StackSpec {
        layers: vec![upper(), lower()],
        writable: Some(writable),
        content: Arc::new(NoContent),
        read_only_key: [0; 32],
    };
    stack::open(spec).expect("opening the stack")
}

fn export(server: &Server, name: &str, service: Arc<dyn FileService>, client: &str) -> Vec<u8> {
    let clients = vec![address(client)];
    let name = ExportName::parse(name).expect("a good name");
    let export = Export::new(name, service, clients, State::Active).expect("short handles");
    let root = wire(&export, &export.service().root().handle);
    server.exports().add(Arc::new(export)).expect("the name is free");
    root
}

fn address(text: &str) -> ClientAddress {
    ClientAddress::parse(text).expect("an address")
}

fn wire(export: &Export, handle: &Handle) -> Vec<u8> {
    let (bytes, len) = export.id().join(handle);
    bytes[..len].to_vec()
}

const OURS: &str = "127.0.0.1";
const THEIRS: &str = "192.0.2.1";
const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    groups: Vec::new(),
};

impl World {
    fn new() -> Self {
        let server = server();
        let dir = support::tempdir();
        let service = open_stack(dir.path(), 1);
        let model = Arc::new(copy(&*service));
        let secret = Memory::new();
        let made = secret
            .create(
                &ROOT,
                None,
                &secret.root().handle,
                SECRET,
                CreateMode::Guarded(SetAttr::default()),
            )
            .expect("creating");
        let secret_file = made.value.made.expect("something was made").handle;
        secret
            .write(&ROOT, &secret_file, 0, SECRET, Stability::FileSync)
            .expect("writing");
        let foreign_root = export(&server, "foreign", Arc::new(secret), THEIRS);
        let foreign_file = [&foreign_root[..8], secret_file.as_bytes()].concat();
        let pair = Pair {
            stack: export(&server, "stack", service, OURS),
            model: export(&server, "model", Arc::clone(&model) as Arc<dyn FileService>, OURS),
        };
        Self {
            dir,
            epoch: 1,
            model,
            other: export(&server, "other", Arc::new(Memory::new()), OURS),
            foreign: vec![foreign_root, foreign_file],
            known: vec![pair],
            ids: HashMap::new(),
            server,
        }
    }

    async fn play(&mut self, input: &mut Input<'_>) {
        let mut xid = 0;
        let mut callers = self.callers();
        let mut last: Option<(u32, usize, Procedure, Vec<Part>)> = None;
        for _ in 0..STEPS_MAX {
            if input.is_empty() {
                break;
            }
            let what = input.below(40);
            if what == 39 {
                drop(callers);
                self.restart(input.below(2)).await;
                callers = self.callers();
                continue;
            }
            if let (38, Some((xid, who, procedure, parts))) = (what, &last) {
                // A retransmission.
                let again = (*xid, *who, *procedure, parts.clone());
                self.both(&callers[again.1], again.0, again.2, &again.3).await;
                continue;
            }
            xid += 1;
            let procedure = Procedure::ALL[1 + what % 21];
            let who = input.pick(&[0, 0, 0, 1, 2]);
            let mut hostile = None;
            let known = self.known.len();
            let parts = arguments(input, procedure, &mut |input| match input.below(12) {
                11 => {
                    hostile = Some(());
                    None
                }
                _ => Some(input.below(known)),
            });
            if hostile.is_some() {
                let foe = self.hostile(input);
                self.hostile_call(&callers[who], procedure, &parts, &foe, input)
                    .await;
            } else {
                self.both(&callers[who], xid, procedure, &parts).await;
                last = Some((xid, who, procedure, parts));
            }
        }
        self.same_trees();
        drop(callers);
        self.restart(1).await;
        self.same_trees();
    }

    fn callers(&self) -> [Client; 3] {
        let user = |uid, gid, groups| Caller { uid, gid, groups };
        [ROOT, user(1000, 100, vec![50]), user(1001, 101, vec![])]
            .map(|caller| client_of(&self.server, address(OURS), &caller))
    }

    fn hostile(&self, input: &mut Input<'_>) -> Hostile {
        let mut bytes = self.known[input.below(self.known.len())].stack.clone();
        let mut other = false;
        match input.below(6) {
            0 => {
                let at = input.below(bytes.len());
                bytes[at] ^= 1 << input.below(8);
            }
            1 => bytes.truncate(input.below(bytes.len())),
            2 => bytes.extend_from_slice(&vec![0; 1 + input.below(64 - bytes.len())]),
            3 => bytes.clone_from(&self.foreign[input.below(2)]),
            4 => {
                bytes.clone_from(&self.other);
                other = true;
            }
            // Another export's id before this one's handle.
            _ => bytes[..8].copy_from_slice(&self.foreign[0][..8]),
        }
        Hostile { bytes, other }
    }

    /// A call with at least one handle that leads nowhere: it must fail and change nothing.
    async fn hostile_call(
        &mut self,
        client: &Client,
        procedure: Procedure,
        parts: &[Part],
        foe: &Hostile,
        input: &mut Input<'_>,
    ) {
        let arguments = joined(parts, |at| match at {
            Some(at) => &self.known[at].stack,
            None => &foe.bytes,
        });
        let first = matches!(parts.first(), Some(Part::Handle(None)));
        let alone = parts.iter().all(|part| !matches!(part, Part::Handle(Some(_))));
        let Some(reply) = self
            .call(client, u32::from(input.byte()) << 16, procedure, &arguments)
            .await
        else {
            return;
        };
        if foe.other && first && alone {
            if let Some(handle) = &reply.handle {
                assert_eq!(handle[..8], self.other[..8], "a handle of its own export");
            }
            return;
        }
        assert_ne!(
            reply.status, 0,
            "{procedure:?} with the handle {:02x?}",
            foe.bytes
        );
        // A name or a type that can never be may be refused first.
        let named = [Status::Inval, Status::NameTooLong, Status::BadType].map(|status| status as u32);
        if first && !foe.other && !named.contains(&reply.status) {
            assert!(
                [Status::Stale as u32, Status::BadHandle as u32].contains(&reply.status),
                "{procedure:?} said {} to {:02x?}",
                reply.status,
                foe.bytes
            );
        }
    }

    /// Makes one call and decodes its reply; `None` if the arguments were no arguments.
    async fn call(&self, client: &Client, xid: u32, procedure: Procedure, arguments: &[u8]) -> Option<Reply> {
        let reply = match client
            .call_as(xid, ops::PROGRAM, ops::VERSION, procedure as u32, arguments)
            .await
        {
            Ok(reply) => reply,
            Err(ClientError::Refused(0, 4)) => return None,
            Err(error) => panic!("{procedure:?}: {error}"),
        };
        assert!(
            !reply.windows(SECRET.len()).any(|part| part == SECRET),
            "another's name or content"
        );
        match decode(procedure, &reply) {
            Ok(reply) => Some(reply),
            Err(error) => panic!(
                "{procedure:?}: {error} in {:02x?}",
                &reply[..reply.len().min(300)]
            ),
        }
    }

    /// The same call to both trees.
    async fn both(&mut self, client: &Client, xid: u32, procedure: Procedure, parts: &[Part]) {
        let arguments = joined(parts, |at| &self.known[at.unwrap_or(0)].stack);
        let own = self.call(client, xid, procedure, &arguments).await;
        let arguments = joined(parts, |at| &self.known[at.unwrap_or(0)].model);
        let model = self.call(client, xid, procedure, &arguments).await;
        let (own, model) = match (own, model) {
            (Some(own), Some(model)) => (own, model),
            (own, model) => {
                assert_eq!(own.is_some(), model.is_some(), "{procedure:?} {parts:?}");
                return;
            }
        };
        own.same(&model, procedure, &mut self.ids)
            .unwrap_or_else(|what| panic!("{procedure:?} {parts:?}: {what}\nstack {own:?}\nmodel {model:?}"));
        if let (Some(stack), Some(model)) = (own.handle, model.handle) {
            assert_eq!(stack[..8], self.known[0].stack[..8], "a handle of its own export");
            let there = self.known.iter().find(|pair| pair.model == model);
            match there {
                Some(pair) => assert_eq!(pair.stack, stack, "one object, one handle"),
                None if self.known.len() < KNOWN_MAX => self.known.push(Pair { stack, model }),
                None => {}
            }
        }
    }

    /// Closes the stack and opens it again, under the same epoch or the next.
    async fn restart(&mut self, epochs: usize) {
        let name = ExportName::parse("stack").expect("a good name");
        let stack = self.server.exports().remove(&name).expect("it is there");
        stack.quiesce().await;
        // What was not committed may be lost; the model loses nothing.
        stack.service().flush_all().expect("flushing");
        drop(stack);
        support::settled().await;
        self.epoch += epochs as u64;
        let service = open_stack(self.dir.path(), self.epoch);
        assert_eq!(export(&self.server, "stack", service, OURS), self.known[0].stack);
        let name = ExportName::parse("model").expect("a good name");
        self.server.exports().remove(&name);
        export(
            &self.server,
            "model",
            Arc::clone(&self.model) as Arc<dyn FileService>,
            OURS,
        );
        for pair in &self.known {
            let stack = self.at_stack(&pair.stack).map(|object| object.attr.size);
            let model = Handle::new(&pair.model[8..]).expect("short");
            let model = self.model.getattr(&model).map(|object| object.attr.size);
            assert_eq!(stack, model, "after a restart");
        }
    }

    fn stack(&self) -> Arc<Export> {
        let name = ExportName::parse("stack").expect("a good name");
        self.server.exports().get(&name).expect("it is there")
    }

    fn at_stack(&self, handle: &[u8]) -> cowfs::service::FsResult<cowfs::service::Object> {
        self.stack()
            .service()
            .getattr(&Handle::new(&handle[8..]).expect("short"))
    }

    /// Both trees, whole.
    fn same_trees(&mut self) {
        let export = self.stack();
        let stack = &**export.service();
        let mut todo = vec![(stack.root(), self.model.root())];
        while let Some((own, other)) = todo.pop() {
            let known = *self.ids.entry(other.fileid).or_insert(own.fileid);
            assert_eq!(known, own.fileid, "inode numbers");
            let shown = |object: &cowfs::service::Object| {
                let attr = object.attr;
                (
                    attr.file_type,
                    attr.mode,
                    attr.links,
                    attr.uid,
                    attr.gid,
                    attr.size,
                    attr.device,
                )
            };
            assert_eq!(shown(&own), shown(&other));
            if own.attr.file_type != FileType::Directory {
                continue;
            }
            let names = listed(stack, &own.handle);
            assert_eq!(names, listed(&*self.model, &other.handle));
            for name in names {
                let own = stack.lookup(&ROOT, &own.handle, &name).expect("it was listed").0;
                let other = self
                    .model
                    .lookup(&ROOT, &other.handle, &name)
                    .expect("it was listed")
                    .0;
                todo.push((own, other));
            }
        }
    }

    async fn close(self) {
        for name in ["stack", "model", "other", "foreign"] {
            let name = ExportName::parse(name).expect("a good name");
            if let Some(export) = self.server.exports().remove(&name) {
                export.quiesce().await;
            }
        }
    }
}
