//! The hot store: memory and Redis behind one port.
