//! The protocols that the gateway speaks, purely: what a request asks for, what is changed in it for its engine, where the frames of an
//! answer end, what they count, and how refusals, signs of life and listings are written.
//!
//! `object` reads the top level of JSON, `ask` what routing needs of a request, `prompt` and `estimate` how long its prompt is, `edit` writes what the engine is sent. `frames` finds the
//! ends of frames in what an engine streams, `chunk` and `meter` read them. `usage` asks what an answer took, `passage` is an
//! answer on its way. `beat` writes signs of life, `refusal` errors, `listing` listings. `translate`
//! puts calls that an engine lacks into one that it has.

mod ask;
mod beat;
mod chunk;
mod edit;
mod estimate;
mod frames;
mod listing;
mod meter;
mod object;
mod operation;
mod passage;
mod prompt;
mod refusal;
mod translate;
mod usage;

pub use ask::{Ask, AskError, Load};
pub use beat::{beat, early_beat, loaded};
pub use edit::edited;
pub use estimate::{Tokenizer, USUAL_BYTES_PER_TOKEN, prompt_cut};
pub use frames::{FrameSplitter, Framing};
pub use listing::{Listed, is_alias, loaded_models, model, models, tags};
pub use meter::{Meter, Usage};
pub use operation::{Operation, Protocol};
pub use passage::{Passage, PassageError};
pub use refusal::{Refusal, RefusalReason};
pub use translate::{AnswerTranslator, chat_of};
