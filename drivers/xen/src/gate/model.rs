//! Every interleaving of one move: two automata, xl at both ends, a link that can be lost, agents and xls that can be
//! killed, and somebody who decides by the rules that the agent follows.
//!
//! The rules (who may order what, and what a restarted node does) are the smallest that DESIGN's order asks for: the holder
//! moves once xl has said GO, GO is passed once the holder has moved, and the domain resumes at the source only while
//! the holder is there. With them no path leads to two running copies, and every path that ends, ends with one.

use std::collections::{HashSet, VecDeque};

use super::source::{self, End, Order, Source};
use super::target::{self, Found, Target};
use super::wire::{Backward, Forward, MigrationId};
use super::words::{BANNER, FAILED, GO, READY, REPORT, report};

/// What a node has of the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Domain {
    None,
    Running,
    Suspended,
    /// A copy that has not run.
    Paused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Xl {
    Starting,
    Streamed,
    SaidGo,
    Exited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Receiver {
    Waiting,
    Whole,
    Exited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Node {
    A,
    B,
}

/// Bytes under way through a pipe, and whether it ends after them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Pipe {
    bytes: VecDeque<Vec<u8>>,
    ends: bool,
}

/// What the decider knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Known {
    ready: bool,
    go: bool,
    proof: bool,
    lost: bool,
    asked: bool,
    passed: bool,
    aborted: bool,
    over: Option<End>,
}

/// Rules that can be broken, to see that it is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Broken {
    /// GO is passed although the holder has not moved.
    go_before_swap: bool,
    /// The holder moves while READY is held: before xl can no longer resume.
    swap_while_held: bool,
    /// The domain is given back without knowing what became of the copy.
    unproved: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    source: Option<Source>,
    target: Option<Target>,
    xl: Xl,
    receiver: Receiver,
    a: Domain,
    b: Domain,
    from_xl: Pipe,
    to_xl: Pipe,
    from_receiver: Pipe,
    to_receiver: Pipe,
    forward: VecDeque<Forward>,
    backward: VecDeque<Backward>,
    link: bool,
    holder: Node,
    /// The target, which had the right to run, gave it back: it has no copy.
    returned: bool,
    known: Known,
    must_look: bool,
    faults: u8,
    broken: Broken,
}

impl World {
    fn new(faults: u8, broken: Broken) -> Self {
        let (source, todo) = Source::new(MigrationId([0; 16]));
        let mut world = Self {
            source: Some(source),
            target: Some(Target::default()),
            xl: Xl::Starting,
            receiver: Receiver::Waiting,
            a: Domain::Running,
            b: Domain::None,
            from_xl: Pipe::default(),
            to_xl: Pipe::default(),
            from_receiver: Pipe {
                bytes: [BANNER.to_vec()].into(),
                ends: false,
            },
            to_receiver: Pipe::default(),
            forward: VecDeque::new(),
            backward: VecDeque::new(),
            link: true,
            holder: Node::A,
            returned: false,
            known: Known::default(),
            must_look: false,
            faults,
            broken,
        };
        world.at_source(todo);
        world
    }

    fn source(&mut self, input: source::Input) {
        if let Some(source) = &mut self.source {
            let todo = source.on(input);
            self.at_source(todo);
        }
    }

    fn at_source(&mut self, todo: Vec<source::Output>) {
        for output in todo {
            match output {
                source::Output::ToXl(bytes) => self.to_xl.bytes.push_back(bytes),
                source::Output::CloseXl => self.to_xl.ends = true,
                source::Output::Send(frame) if self.link => self.forward.push_back(frame),
                source::Output::Send(_) => {}
                source::Output::Tell(news) => match news {
                    source::News::Ready => self.known.ready = true,
                    source::News::Go => self.known.go = true,
                    source::News::CopyGone => self.known.proof = true,
                    source::News::LinkLost => self.known.lost = true,
                    source::News::Over(end) => self.known.over = Some(end),
                    source::News::Arrived | source::News::Refused(_) => {}
                    source::News::NotNow(order) => panic!("{order:?} came when there was no place for it"),
                },
            }
        }
    }

    fn target(&mut self, input: target::Input) {
        let Some(target) = &mut self.target else { return };
        for output in target.on(input) {
            match output {
                target::Output::ToReceiver(bytes) => self.to_receiver.bytes.push_back(bytes),
                target::Output::CloseReceiver => self.to_receiver.ends = true,
                target::Output::Send(frame) if self.link => self.backward.push_back(frame),
                target::Output::Send(_) => {}
                target::Output::Tell(target::News::MustLook) => self.must_look = true,
                target::Output::Tell(_) => {}
            }
        }
    }

    /// All worlds that one step leads to.
    fn next(&self) -> Vec<(&'static str, Self)> {
        let mut all = Vec::new();
        let mut step = |name: &'static str, change: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            change(&mut world);
            all.push((name, world));
        };
        self.xl_steps(&mut step);
        self.receiver_steps(&mut step);
        self.deliveries(&mut step);
        self.decisions(&mut step);
        self.recoveries(&mut step);
        if self.faults > 0 {
            self.fail(&mut step);
        }
        all
    }

    fn xl_steps(&self, step: &mut impl FnMut(&'static str, &dyn Fn(&mut Self))) {
        let exit = |world: &mut Self, a: Domain| {
            (world.xl, world.a, world.from_xl.ends) = (Xl::Exited, a, true);
        };
        match (self.xl, self.to_xl.bytes.front()) {
            (Xl::Starting, Some(_)) => step("xl sends the domain", &|world| {
                world.to_xl.bytes.pop_front();
                world.from_xl.bytes.push_back(b"memory".to_vec());
                (world.xl, world.a) = (Xl::Streamed, Domain::Suspended);
            }),
            (Xl::Streamed, Some(ready)) => {
                assert_eq!(ready, READY);
                step("xl says GO", &|world| {
                    world.to_xl.bytes.pop_front();
                    // In two pieces, since nothing forbids it.
                    world.from_xl.bytes.extend([GO[..7].to_vec(), GO[7..].to_vec()]);
                    world.xl = Xl::SaidGo;
                });
            }
            (Xl::SaidGo, Some(words)) => {
                let status = words[REPORT.len()];
                step("xl hears how it went", &|world| {
                    world.to_xl.bytes.pop_front();
                    exit(
                        world,
                        if status == 0 {
                            Domain::None
                        } else {
                            Domain::Running
                        },
                    );
                });
            }
            (Xl::Starting | Xl::Streamed, None) if self.to_xl.ends => {
                step("xl resumes", &|world| exit(world, Domain::Running));
            }
            (Xl::SaidGo, None) if self.to_xl.ends => {
                step("xl gives up", &|world| exit(world, Domain::Suspended))
            }
            _ => {}
        }
    }

    fn receiver_steps(&self, step: &mut impl FnMut(&'static str, &dyn Fn(&mut Self))) {
        let exit = |world: &mut Self, b: Domain, words: Option<Vec<u8>>| {
            world.from_receiver.bytes.extend(words);
            (world.receiver, world.b, world.from_receiver.ends) = (Receiver::Exited, b, true);
        };
        match (self.receiver, self.to_receiver.bytes.front()) {
            (Receiver::Waiting, Some(_)) => step("the copy is whole", &|world| {
                world.to_receiver.bytes.pop_front();
                world.from_receiver.bytes.push_back(READY.to_vec());
                (world.receiver, world.b) = (Receiver::Whole, Domain::Paused);
            }),
            (Receiver::Whole, Some(go)) => {
                assert_eq!(go, GO);
                step("the copy runs", &|world| {
                    exit(world, Domain::Running, Some(report(0)))
                });
                step("the copy cannot run", &|world| {
                    exit(world, Domain::None, Some(report(FAILED)))
                });
            }
            (Receiver::Waiting, None) if self.to_receiver.ends => {
                step("the receiver gives up", &|world| exit(world, Domain::None, None));
            }
            (Receiver::Whole, None) if self.to_receiver.ends => {
                step("the copy is destroyed", &|world| {
                    exit(world, Domain::None, Some(report(0xff)))
                });
                if self.target.is_none() {
                    step("the copy is left paused", &|world| {
                        exit(world, Domain::Paused, None)
                    });
                }
            }
            _ => {}
        }
    }

    fn deliveries(&self, step: &mut impl FnMut(&'static str, &dyn Fn(&mut Self))) {
        if self.source.is_some() {
            if !self.from_xl.bytes.is_empty() {
                step("the source hears xl", &|world| {
                    let bytes = world.from_xl.bytes.pop_front().unwrap_or_default();
                    world.source(source::Input::FromXl(bytes));
                });
            } else if self.from_xl.ends {
                step("the source sees xl end", &|world| {
                    world.from_xl.ends = false;
                    world.source(source::Input::XlClosed);
                });
            }
            if !self.backward.is_empty() {
                step("a frame comes back", &|world| {
                    if let Some(frame) = world.backward.pop_front() {
                        world.source(source::Input::Frame(frame));
                    }
                });
            } else if !self.link && !self.known.lost {
                step("the source sees the link end", &|world| {
                    world.known.lost = true;
                    world.source(source::Input::LinkLost);
                });
            }
        }
        if self.target.is_some() {
            if !self.from_receiver.bytes.is_empty() {
                step("the target hears the receiver", &|world| {
                    let bytes = world.from_receiver.bytes.pop_front().unwrap_or_default();
                    world.target(target::Input::FromReceiver(bytes));
                });
            } else if self.from_receiver.ends {
                step("the target sees the receiver end", &|world| {
                    world.from_receiver.ends = false;
                    world.target(target::Input::ReceiverClosed);
                });
            }
            if !self.forward.is_empty() {
                step("a frame goes over", &|world| {
                    if let Some(frame) = world.forward.pop_front() {
                        world.target(target::Input::Frame(frame));
                    }
                });
            } else if !self.link {
                step("the target sees the link end", &|world| {
                    world.target(target::Input::LinkLost)
                });
            }
        }
    }

    /// What the agent at the source may do, by what it knows.
    fn decisions(&self, step: &mut impl FnMut(&'static str, &dyn Fn(&mut Self))) {
        if self.source.is_none() || self.known.over.is_some() {
            return;
        }
        let known = &self.known;
        if known.ready && !known.asked && !known.aborted {
            step("READY is passed", &|world| {
                world.known.asked = true;
                world.source(source::Input::Order(Order::PassReady));
            });
        }
        let early = self.broken.swap_while_held && known.ready;
        if (known.go || early)
            && self.holder == Node::A
            && !self.returned
            && !known.aborted
            && !known.proof
            && !known.lost
        {
            step("the holder moves", &|world| world.holder = Node::B);
        }
        let moved = self.holder == Node::B || self.broken.go_before_swap;
        if known.go
            && moved
            && !self.returned
            && !known.passed
            && !known.aborted
            && !known.lost
            && !known.proof
        {
            step("GO is passed", &|world| {
                world.known.passed = true;
                world.source(source::Input::Order(Order::PassGo));
            });
        }
        if !known.aborted && !known.passed && self.holder == Node::A {
            step("the move is called off", &|world| {
                world.known.aborted = true;
                world.source(source::Input::Order(Order::Abort));
            });
        }
        // The target has no copy and never will: it said so, or it is fenced and that was confirmed.
        let gone = known.proof
            || (self.target.is_none() && self.b == Domain::None && self.receiver == Receiver::Exited);
        // Or the right to run never left: the copy has not been allowed to run, and will not be.
        let stayed = known.lost && self.holder == Node::A;
        if known.asked && (gone || stayed || self.broken.unproved) {
            step("the domain is given back", &|world| {
                (world.holder, world.known.aborted) = (Node::A, true);
                world.source(source::Input::Order(Order::GiveBack));
            });
        }
        if known.passed && known.lost && self.b == Domain::Running {
            step("it is learnt that the copy runs", &|world| {
                world.source(source::Input::Order(Order::GiveAway))
            });
        }
    }

    /// What nodes do with what they find when nobody is at it any more.
    fn recoveries(&self, step: &mut impl FnMut(&'static str, &dyn Fn(&mut Self))) {
        if self.must_look && self.target.is_some() {
            step("the target looks", &|world| {
                world.must_look = false;
                let found = match world.b {
                    Domain::Running => Found::Runs,
                    _ => Found::Nothing,
                };
                world.b = if found == Found::Runs {
                    Domain::Running
                } else {
                    Domain::None
                };
                world.target(target::Input::Looked(found));
            });
        }
        let receiver_gone = self.receiver == Receiver::Exited;
        if self.target.is_none() && receiver_gone && self.b == Domain::Paused {
            step("a restarted target destroys what nobody may run", &|world| {
                world.b = Domain::None
            });
        }
        let nobody_there =
            self.target.as_ref().is_none_or(Target::is_over) && receiver_gone && self.b == Domain::None;
        if self.holder == Node::B && nobody_there {
            step("the target hands the right back", &|world| {
                (world.holder, world.returned) = (Node::A, true);
            });
        }
        let done_here = self.source.as_ref().is_none_or(Source::is_over) && self.xl == Xl::Exited;
        if done_here && self.a == Domain::Suspended {
            match self.holder {
                Node::A => step("the source resumes what is its own", &|world| {
                    world.a = Domain::Running
                }),
                Node::B if self.b == Domain::Running => {
                    step("the source destroys what is left", &|world| {
                        world.a = Domain::None
                    });
                }
                Node::B => {}
            }
        }
    }

    fn fail(&self, step: &mut impl FnMut(&'static str, &dyn Fn(&mut Self))) {
        if self.link {
            step("the link is lost", &|world| {
                (world.link, world.faults) = (false, world.faults - 1);
            });
            step("the link is lost with what is under way", &|world| {
                (world.link, world.faults) = (false, world.faults - 1);
                world.forward.clear();
                world.backward.clear();
            });
        }
        if self.source.is_some() {
            step("the agent of the source dies", &|world| {
                (world.source, world.link, world.faults) = (None, false, world.faults - 1);
                world.to_xl.ends = true;
            });
        }
        if self.target.is_some() {
            step("the agent of the target dies", &|world| {
                (world.target, world.link, world.faults) = (None, false, world.faults - 1);
                world.to_receiver.ends = true;
            });
        }
        if self.xl != Xl::Exited {
            step("xl is killed", &|world| {
                (world.xl, world.faults, world.from_xl.ends) = (Xl::Exited, world.faults - 1, true);
            });
        }
        if self.receiver != Receiver::Exited {
            step("the receiver is killed", &|world| {
                (world.receiver, world.faults) = (Receiver::Exited, world.faults - 1);
                world.from_receiver.ends = true;
            });
        }
    }

    fn unlawful(&self) -> bool {
        let other = match self.holder {
            Node::A => self.b,
            Node::B => self.a,
        };
        other == Domain::Running
    }

    fn running(&self) -> usize {
        [self.a, self.b]
            .iter()
            .filter(|domain| **domain == Domain::Running)
            .count()
    }
}

/// What a walk through all worlds found.
struct Walked {
    worlds: usize,
    /// Steps to a world where a domain runs that has not the right to, as one of two always would.
    wrong: Option<Vec<&'static str>>,
    /// Steps to a world that ends without a running copy.
    none: Option<Vec<&'static str>>,
    ends: HashSet<(Domain, Domain)>,
}

/// Goes through all worlds, nearest first, so that what is found is shortest.
fn walk(faults: u8, broken: Broken) -> Walked {
    let mut seen: Vec<(World, usize, &'static str)> = vec![(World::new(faults, broken), 0, "")];
    let mut known: HashSet<World> = seen.iter().map(|(world, ..)| world.clone()).collect();
    let mut walked = Walked {
        worlds: 0,
        wrong: None,
        none: None,
        ends: HashSet::new(),
    };
    let way = |seen: &[(World, usize, &'static str)], mut at: usize| {
        let mut steps = Vec::new();
        while at != 0 {
            steps.push(seen[at].2);
            at = seen[at].1;
        }
        steps.reverse();
        steps
    };
    while walked.worlds < seen.len() {
        let at = walked.worlds;
        walked.worlds += 1;
        let world = seen[at].0.clone();
        if world.unlawful() {
            walked.wrong.get_or_insert_with(|| way(&seen, at));
            continue;
        }
        let mut last = true;
        for (name, next) in world.next() {
            // A step that changes nothing leads nowhere.
            last &= next == world;
            if known.insert(next.clone()) {
                seen.push((next, at, name));
            }
        }
        if last {
            walked.ends.insert((world.a, world.b));
            if world.running() == 0 {
                walked.none.get_or_insert_with(|| way(&seen, at));
            }
        }
    }
    walked
}

#[test]
fn never_two_copies_and_never_none_for_ever() {
    for faults in 0..=3 {
        let walked = walk(faults, Broken::default());
        assert_eq!(walked.wrong, None, "a copy runs without the right");
        assert_eq!(walked.none, None, "no copy runs");
        // Both ends were reached: a walk that sees nothing proves nothing.
        assert!(walked.ends.contains(&(Domain::None, Domain::Running)));
        assert!(walked.ends.contains(&(Domain::Running, Domain::None)));
        assert!(walked.worlds > 100, "{} worlds", walked.worlds);
    }
}

#[test]
fn each_broken_rule_is_noticed() {
    let sound = Broken::default();
    for broken in [
        Broken {
            go_before_swap: true,
            ..sound
        },
        Broken {
            swap_while_held: true,
            ..sound
        },
        Broken {
            unproved: true,
            ..sound
        },
    ] {
        let walked = walk(3, broken);
        assert!(walked.wrong.is_some() || walked.none.is_some(), "{broken:?}");
    }
}
