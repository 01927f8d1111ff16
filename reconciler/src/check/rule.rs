//! The rules of the judge, each by name: so that a test can see to it that every one of them is broken once.

use std::fmt;

macro_rules! sentences {
    ($(#[$doc:meta])* $name:ident { $($variant:ident: $sentence:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $(#[doc = $sentence] $variant,)*
        }

        impl $name {
            /// Every one, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $sentence,)*
                })
            }
        }
    };
}

sentences! {
/// What is wrong about an action at the moment its turn comes, as a sentence about it.
Rule {
    NotBehindGiver: "is not held behind the last step of whom it takes over from",
    TakesOverWhatIsInUse: "takes over what is in use",
    TakesOverWhatIsNotThere: "takes over what is not there",
    NotBehindPrevious: "is not held behind the step before it",
    OpensWhatShouldNotRun: "opens what should not run",
    OpensWhatIsOpen: "opens what is open",
    OpensWhatIsSetAside: "opens what is set aside",
    OpensWhatCannotBeReached: "opens a writable layer on a remote directory that is not mounted",
    LimitsWritableLayersThatAreNotOpen: "limits writable layers that are not open",
    LimitsToWhatIsNotDesired: "limits to what is not desired",
    StacksOnAWritableLayerThatIsNotOpen: "stacks on a writable layer that is not open",
    StacksWhatIsNotDesired: "stacks what is not desired",
    StacksLayersThatAreNotHere: "stacks layers that are not here",
    StacksOverAStackThatIsInUse: "stacks over a stack that is in use",
    ServesAStackThatIsNotAssembled: "serves a stack that is not assembled",
    ServesADomainThatWasStartedOnSomethingElse: "serves a domain that was started on something else",
    StartsADomainWhileAnImageOfItIsLeft: "starts a domain while an image of it is left",
    ResumesAnImageThatDoesNotFit: "resumes an image that does not fit",
    ResumesAnImageThatIsNotSealed: "resumes an image that is not sealed",
    LetsADomainGoOnWithoutItsExport: "lets a domain go on without its export",
    LetsSomethingElseGoOnThanIsDesired: "lets something else go on than is desired",
    ChangesADomainThatDoesNotRun: "changes a domain that does not run",
    ChangesToWhatIsNotDesired: "changes to what is not desired",
    GivesMoreMemoryThanTheDomainWasStartedWith: "gives more memory than the domain was started with",
    WaitsForADomainThatDoesNotRun: "waits for a domain that does not run",
    SealsAnImageWithWhatIsInUse: "seals an image with what is in use",
    SealsAnImageThatIsNotThere: "seals an image that is not there",
    StopsServingADomainThatIsThere: "stops serving a domain that is there",
    ClosesWhatIsInUse: "closes what is in use",
    SetsAsideWhatIsInUse: "sets aside what is in use",
    RevivesWhatNobodyDesires: "revives what nobody desires",
    RevivesWhatIsNotSetAside: "revives what is not set aside",
    TakesOverWhatIsNotItsOwn: "takes over what is not its own",
    TakesOverWhatIsStillDesiredUnderItsName: "takes over what is still desired under its name",
    TakesOverOthersWhileItHasItsOwn: "takes over others while it has its own",
    DeletesWhatIsInUse: "deletes what is in use",
    LeavesAnImageBehind: "leaves an image behind",
    StartsADomainWithoutItsExport: "starts a domain without its export",
    StartsASecondDomain: "starts a second domain",
    StartsWhatIsNotDesired: "starts what is not desired",
    StartsWithoutItsKernel: "starts without its kernel",
    StartsWithoutItsRemotes: "starts without a remote directory that it reads from",
    StopsADomainThatIsNotOurs: "stops a domain that is not ours",
    StopsADomainThatIsAsDesired: "stops a domain that is as desired",
    StopsADomainBeforeItCanStartAgain: "stops a domain before it can start again",
    StoresTheMemoryOfADomainThatDoesNotLive: "stores the memory of a domain that does not live",
    AsksTheDriverForWhatItCannotDo: "asks the driver for what it cannot do",
    DeletesAnImageThatIsNotThere: "deletes an image that is not there",
    DeletesMemoryThatNobodyGaveUp: "deletes memory that nobody gave up",
    KeepsSomethingElse: "keeps what it wrote otherwise than it should, or drops what is not to be dropped",
    GoesBackBelowWhatIsInUse: "has layers go back that are in use, or not open",
    GoesBackBeforeItIsKept: "undoes what is not kept",
    GoesBackToSomethingElse: "goes back to what nobody asks for",
    StartsOverWhatIsNotKept: "starts something else over what is not kept",
    StartsWithoutGoingBack: "starts over what is to go back first",
    DeletesWhatIsNotDueForIt: "deletes what is not due for it",
    SetsAsideWhatIsDesired: "sets aside what is desired",
    StartsBesideWhatIsKept: "starts a second embodiment of what keeps what it writes",
    NotBehindTheOther: "is not held behind what has to happen to the other embodiment before",
    TakesPortsFromWhatServes: "takes its ports from what serves before the new one is healthy",
    EndsWhatServes: "ends what serves before the new one is healthy and has the ports",
    PublishesBesideTheOther: "publishes what the other embodiment still does",
}
}

sentences! {
/// How a plan leaves a sliver that it should not leave so.
Left {
    SetAside: "set aside",
    Undesired: "changing although nobody desires it",
    NotResting: "in use or set aside though it should rest",
    NotRunning: "without its domain or its export",
    NotLimited: "with another limit of its disk, or another share, than is asked for",
    NotAtRest: "running, open, set aside or with an image that says nothing",
    NotHandedOver: "running, open or not handed over",
    NotRemoved: "running, open or not set aside",
    Twice: "with two embodiments",
}
}
