//! Visits every state, and asks of each whether it is right and whether a way leads from it to a good one.

use std::rc::Rc;

use super::world::{Broken, World};
use super::{HashMap, VecDeque, moves};

/// How much there was.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) states: usize,
    pub(super) ways: usize,
    /// Most steps from the beginning to a state.
    pub(super) longest: usize,
}

impl std::fmt::Display for Extent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            states,
            ways,
            longest,
        } = self;
        write!(
            f,
            "{states} states, {ways} ways between them, up to {longest} steps"
        )
    }
}

/// What must not be, and how it came to be.
pub(super) struct Failure {
    pub(super) what: &'static str,
    pub(super) story: Vec<String>,
    pub(super) world: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}:", self.what)?;
        self.story.iter().try_for_each(|step| writeln!(f, "  {step}"))?;
        write!(f, "{}", self.world)
    }
}

/// Where a state was first come from.
struct Visit {
    from: Option<u32>,
    depth: usize,
}

/// Explores everything that can be reached from `start`.
pub(super) fn explore(start: World, broken: Broken) -> Result<Extent, Failure> {
    let mut numbers: HashMap<Rc<World>, u32> = HashMap::new();
    let mut worlds: Vec<Rc<World>> = Vec::new();
    let mut visits: Vec<Visit> = Vec::new();
    // Against the direction of time: which states lead here by what happens in the end.
    let mut before: Vec<(u32, u32)> = Vec::new();
    let mut ways = 0;
    let start = Rc::new(start);
    numbers.insert(Rc::clone(&start), 0);
    worlds.push(start);
    visits.push(Visit { from: None, depth: 0 });
    let mut queue = VecDeque::from([0_u32]);
    while let Some(at) = queue.pop_front() {
        let world = Rc::clone(&worlds[at as usize]);
        if let Some(what) = world.wrong(broken) {
            return Err(failure(what, at, &worlds, &visits, broken));
        }
        for happened in moves::all(&world, broken) {
            ways += 1;
            let next = u32::try_from(worlds.len()).expect("fewer than four billion states");
            let then = Rc::new(happened.then);
            let to = *numbers.entry(Rc::clone(&then)).or_insert(next);
            if to == next {
                worlds.push(then);
                visits.push(Visit {
                    from: Some(at),
                    depth: visits[at as usize].depth + 1,
                });
                queue.push_back(to);
            }
            if happened.fair {
                before.push((to, at));
            }
        }
    }
    drop(numbers);
    stuck(&worlds, before).map_or(Ok(()), |at| {
        Err(failure(
            "no way leads on to one working guest",
            at,
            &worlds,
            &visits,
            broken,
        ))
    })?;
    Ok(Extent {
        states: worlds.len(),
        ways,
        longest: visits.iter().map(|visit| visit.depth).max().unwrap_or(0),
    })
}

/// A state from which nothing that happens in the end leads to a good one.
fn stuck(worlds: &[Rc<World>], mut before: Vec<(u32, u32)>) -> Option<u32> {
    before.sort_unstable();
    let mut fine = vec![false; worlds.len()];
    let mut queue: VecDeque<u32> = VecDeque::new();
    for (at, world) in worlds.iter().enumerate() {
        if world.good() {
            fine[at] = true;
            queue.extend(u32::try_from(at));
        }
    }
    while let Some(at) = queue.pop_front() {
        let first = before.partition_point(|(to, _)| *to < at);
        for (_, from) in before[first..].iter().take_while(|(to, _)| *to == at) {
            if !std::mem::replace(&mut fine[*from as usize], true) {
                queue.push_back(*from);
            }
        }
    }
    fine.iter()
        .position(|fine| !fine)
        .and_then(|at| u32::try_from(at).ok())
}

/// Tells the shortest story that ends in a state.
fn failure(what: &'static str, at: u32, worlds: &[Rc<World>], visits: &[Visit], broken: Broken) -> Failure {
    let mut path = vec![at];
    while let Some(from) = path.last().and_then(|at| visits[*at as usize].from) {
        path.push(from);
    }
    path.reverse();
    let step = |pair: &[u32]| {
        let (from, to) = (&worlds[pair[0] as usize], &worlds[pair[1] as usize]);
        let happened = moves::all(from, broken)
            .into_iter()
            .find(|happened| happened.then == **to);
        happened.map_or_else(String::new, |happened| happened.what)
    };
    Failure {
        what,
        story: path.windows(2).map(step).collect(),
        world: format!("{:?}", worlds[at as usize]),
    }
}
