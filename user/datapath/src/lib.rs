//! The datapath room: loads the kernel programs, attaches and pins them, keeps their maps in step with what the agent
//! wants, and moves frames between the punt pairs and the engine.
//!
//! Start at [`Datapath`]. [`PuntChannel`] is all that the engine's side sees of the way a frame comes and goes.
//!
//! Everything that must outlive the process (maps, attachments) is pinned under [`Settings::bpffs`] from the first
//! moment: an agent that is killed leaves its verdicts in force, and flows that need a new L7 verdict are dropped.

mod attach;
mod batch;
mod carry_over;
mod channel;
mod copies;
mod counters;
mod datapath;
mod error;
mod ethtool;
mod events;
mod fair;
mod fill;
mod maps;
mod memory;
mod names;
mod object;
mod probe;
mod punt_pair;
mod requests;
mod schedule;
mod shares;
mod skb_layout;
mod xsk;

pub use attach::AttachMode;
pub use carry_over::TakeOver;
pub use channel::{ChannelStats, Decide, Disposition, Outgoing, PuntChannel};
pub use copies::CopyReader;
pub use counters::CounterReader;
pub use datapath::{Datapath, Settings};
pub use error::DatapathError;
pub use events::{AnswerReader, EventReader, PieceReader, RingReader, RingRecord};
pub use fill::{FillReader, MapFill};
pub use maps::{IpcachePrefix, PolicyRow};
pub use names::{FlowTable, NameTable};
pub use object::LoadedProgram;
pub use probe::Prober;
pub use requests::{RequestAutomata, RequestReader, RequestTables};
pub use schedule::{give_way, prefer_batches};
