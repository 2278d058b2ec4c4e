// Sockets. Names are resolved with getaddrinfo; numeric addresses never leave the host.
#pragma once

#include <cstdint>
#include <filesystem>
#include <stop_token>
#include <string>

#include "base/result.h"
#include "sys/clock.h"
#include "sys/fd.h"

namespace midstream {

// Connects to host:port, trying each address in turn; TCP_NODELAY and keepalive (10 s) are set.
Result<Fd> connect_tcp(const std::string& host, std::uint16_t port, Deadline deadline, const std::stop_token& stop = {});
// Listens on one numeric address; port 0 lets the kernel choose. SO_REUSEADDR is set.
Result<Fd> listen_tcp(const std::string& address, std::uint16_t port);
Result<std::uint16_t> local_port(int fd);

Result<Fd> connect_unix(const std::filesystem::path& path, Deadline deadline);
// Replaces a stale socket file; the file's mode is 0600.
Result<Fd> listen_unix(const std::filesystem::path& path);

// The next connection; cancelled when stopped.
Result<Fd> accept_one(int listener, const std::stop_token& stop);

}  // namespace midstream
