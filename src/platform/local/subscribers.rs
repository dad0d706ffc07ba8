//! Who watches which kind.

use futures::{Stream, StreamExt, stream};
use kube::{api::DynamicObject, runtime::watcher::Event};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// The open watches.
#[derive(Default)]
pub struct Subscribers {
    open: Vec<(String, mpsc::UnboundedSender<Event<DynamicObject>>)>,
}

impl Subscribers {
    /// A new watch that begins with all objects that there are.
    pub fn add(
        &mut self,
        kind: &str,
        present: Vec<DynamicObject>,
    ) -> impl Stream<Item = Event<DynamicObject>> + Send + 'static + use<> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.open.push((kind.to_owned(), sender));
        stream::iter(
            std::iter::once(Event::Init)
                .chain(present.into_iter().map(Event::InitApply))
                .chain(std::iter::once(Event::InitDone)),
        )
        .chain(UnboundedReceiverStream::new(receiver))
    }

    /// Tells everybody who watches the kind; forgets who went away.
    pub fn tell(&mut self, kind: &str, event: &Event<DynamicObject>) {
        self.open.retain(|(of, sender)| of != kind || sender.send(event.clone()).is_ok());
    }
}
