//! What very many sockets cost.
