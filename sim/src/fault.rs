//! What the nemesis can do, and to whom: every fault with its fields, as it stands in a plan.

use serde::{Deserialize, Serialize};

/// One fault, with the moment at which it begins; it carries its own end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    pub at_ms: u64,
    #[serde(flatten)]
    pub fault: Fault,
}

/// Whom a fault is aimed at; resolved when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    Leader,
    /// Who led before the present leader.
    OldLeader,
    LongestLog,
    ShortestLog,
    Member(usize),
}

/// Which way the messages of a target are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    In,
    Out,
    Both,
}

/// What the nemesis does. Times are those of the simulation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum Fault {
    // --- network ---
    Isolate {
        target: Target,
        direction: Direction,
        for_ms: u64,
    },
    /// These directed links are cut: partitions, bridges and rings are sets of links.
    CutLinks {
        shape: Shape,
        links: Vec<(usize, usize)>,
        for_ms: u64,
    },
    Flap {
        target: Target,
        period_ms: u64,
        times: u64,
    },
    Delay {
        from_ms: u64,
        to_ms: u64,
        for_ms: u64,
    },
    Loss {
        per_mille: u64,
        for_ms: u64,
    },
    CutClients {
        target: Target,
        for_ms: u64,
    },
    /// All connections that the target serves, to members and to clients, are reset so many times:
    /// what is under way on them is lost, and both ends know it.
    ResetConnections {
        target: Target,
        times: u64,
        period_ms: u64,
    },
    /// What one member says to another arrives late: the link waits, and no other one.
    Lag {
        from: Target,
        to: Target,
        for_ms: u64,
    },
    /// Cut off from all members, not from the clients, with a slow clock: a leader notices late
    /// that it was deposed.
    Strand {
        target: Target,
        per_mille: u64,
        for_ms: u64,
    },
    /// The target, with a slow clock, first hears nobody and then reaches nobody either; what was
    /// answered before it lost its followers arrives when another leader has gone on.
    LateAnswers {
        target: Target,
        per_mille: u64,
        /// For how long its words still arrive while it hears nobody.
        deaf_ms: u64,
        /// From the next leader's first write until the answers are let through.
        late_ms: u64,
        /// The most that all of it may take.
        for_ms: u64,
    },
    /// The leader hands over to whoever is furthest, and hears nobody for a while: what it decides
    /// meanwhile waits, and comes to its successor.
    DeafHandover {
        deaf_ms: u64,
    },
    /// The next transfers of a state from one member to another, so many of them, break off behind
    /// so many pieces.
    BreakInstall {
        pieces: u64,
        times: u64,
    },

    // --- processes ---
    Kill {
        target: Target,
        down_ms: u64,
    },
    PowerCut {
        target: Target,
        down_ms: u64,
    },
    PowerCutAll {
        down_ms: u64,
    },
    Pause {
        target: Target,
        for_ms: u64,
    },
    RollingRestart {
        gap_ms: u64,
        power_cut: bool,
    },
    /// The power of the target fails right after its n-th disk operation from now on.
    CrashAtDiskOperation {
        target: Target,
        nth: u64,
        down_ms: u64,
    },
    /// The power of whoever becomes leader next fails that long after its election.
    CrashNextLeader {
        after_ms: u64,
        down_ms: u64,
    },

    // --- disks ---
    FsyncStall {
        target: Target,
        for_ms: u64,
    },
    FsyncSlow {
        target: Target,
        from_ms: u64,
        to_ms: u64,
        for_ms: u64,
    },
    WriteError {
        target: Target,
        down_ms: u64,
    },
    FsyncError {
        target: Target,
        down_ms: u64,
    },
    /// So many bytes more fit, and then the disk is full.
    NoSpace {
        target: Target,
        #[serde(default)]
        slack_bytes: u64,
        for_ms: u64,
    },
    /// A bit of the log rots while the target is down. It may refuse to start ever again.
    BitRot {
        target: Target,
        down_ms: u64,
    },

    /// A write to the log or to a checkpoint of the target went astray: what it wrote stands in
    /// another place of the same file, or in another file. It shows when the target comes up.
    MisdirectedWrite {
        target: Target,
        down_ms: u64,
    },

    // --- memory ---
    /// A bit of a value in the target's memory flips. It may be one that the member can only find
    /// by looking, or one that shows in its state hash, as if it had applied something else.
    Corrupt {
        target: Target,
        /// Which of the values in memory, counted around.
        nth: usize,
        shows: bool,
        /// It strikes when a checkpoint is nearly due, and a value that is not written down yet.
        #[serde(default)]
        unwritten: bool,
    },
    /// A bit of a run or a manifest rots under the target, mostly while it works.
    RunRot {
        target: Target,
    },
    /// A bit of a value rots that only a new run of the target holds, as soon as there is one, or
    /// none does after so long. Somebody overwrites it, and asks for what was there.
    ValueRot {
        target: Target,
        within_ms: u64,
    },
    /// A bit rots of a run that another member has just sent to the target, before it is loaded, or
    /// none does after so long. Where it is held down, its checkpoints rot first, so that it needs
    /// another's.
    InstallRot {
        target: Target,
        within_ms: u64,
        down_ms: Option<u64>,
    },
    /// A bit rots at the end of a run of the target when it leads and is asked for its state, or
    /// none does after so long.
    OfferRot {
        target: Target,
        within_ms: u64,
    },
    /// A bit rots in every manifest of the target while it is down, or in every run.
    CheckpointRot {
        target: Target,
        down_ms: u64,
    },
    /// Like `checkpoint-rot`, at the moment when a checkpoint has released all of the target's log
    /// but its last segment, or after so long: hardly anything is left that says how far it came.
    ReleasedRot {
        target: Target,
        within_ms: u64,
        down_ms: u64,
    },

    // --- clocks ---
    ClockRate {
        target: Target,
        per_mille: u64,
        for_ms: u64,
    },
    WallJump {
        target: Target,
        by_ms: i64,
    },

    // --- operations ---
    TransferLeader {
        to: Target,
    },

    // --- clients ---
    /// So many requests at once, as after an outage that everybody waited for.
    Burst {
        target: Target,
        requests: u64,
    },

    // --- members ---
    /// An operator adds a member and starts it; a learner is promoted once it may be, or never.
    AddMember {
        seat: usize,
        learner: bool,
        promote: bool,
    },
    /// An operator removes the target.
    RemoveMember {
        target: Target,
    },
    /// The target is lost with its disk; an operator removes it and adds another one.
    ReplaceMember {
        target: Target,
        seat: usize,
    },
}

/// How the links of a cut were chosen; for the reader only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    Halves,
    /// Two halves that only one member reaches.
    Bridge,
    /// Every member reaches its two neighbours only.
    Ring,
    /// Single links, each in one direction.
    Directed,
}

impl Fault {
    /// The class by which faults are switched on, counted and printed.
    pub fn class(&self) -> &'static str {
        match self {
            Fault::Isolate { .. } => "isolate",
            Fault::CutLinks { .. } => "cut-links",
            Fault::Flap { .. } => "flap",
            Fault::Delay { .. } => "delay",
            Fault::Loss { .. } => "loss",
            Fault::CutClients { .. } => "cut-clients",
            Fault::ResetConnections { .. } => "reset-connections",
            Fault::Lag { .. } => "lag",
            Fault::Strand { .. } => "strand",
            Fault::LateAnswers { .. } => "late-answers",
            Fault::DeafHandover { .. } => "deaf-handover",
            Fault::BreakInstall { .. } => "break-install",
            Fault::Kill { .. } => "kill",
            Fault::PowerCut { .. } => "power-cut",
            Fault::PowerCutAll { .. } => "power-cut-all",
            Fault::Pause { .. } => "pause",
            Fault::RollingRestart { .. } => "rolling-restart",
            Fault::CrashAtDiskOperation { .. } => "crash-at-disk-operation",
            Fault::CrashNextLeader { .. } => "crash-next-leader",
            Fault::FsyncStall { .. } => "fsync-stall",
            Fault::FsyncSlow { .. } => "fsync-slow",
            Fault::WriteError { .. } => "write-error",
            Fault::FsyncError { .. } => "fsync-error",
            Fault::NoSpace { .. } => "no-space",
            Fault::BitRot { .. } => "bit-rot",
            Fault::MisdirectedWrite { .. } => "misdirected-write",
            Fault::Corrupt { .. } => "corrupt",
            Fault::RunRot { .. } => "run-rot",
            Fault::ValueRot { .. } => "value-rot",
            Fault::InstallRot { .. } => "install-rot",
            Fault::OfferRot { .. } => "offer-rot",
            Fault::CheckpointRot { .. } => "checkpoint-rot",
            Fault::ReleasedRot { .. } => "released-rot",
            Fault::ClockRate { .. } => "clock-rate",
            Fault::WallJump { .. } => "wall-jump",
            Fault::TransferLeader { .. } => "transfer-leader",
            Fault::Burst { .. } => "burst",
            Fault::AddMember { .. } => "add-member",
            Fault::RemoveMember { .. } => "remove-member",
            Fault::ReplaceMember { .. } => "replace-member",
        }
    }
}
