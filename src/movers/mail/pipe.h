// Dovecot's own sync between the two hosts: `doveadm backup` here, `doveadm dsync-server` there, their bytes carried over
// the agents' link. No shell and no ssh: user names are checked (block.h) and are words of their own.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "movers/mail/dovecot.h"
#include "sys/stream.h"

namespace midstream::mail {

// One-way: what `user` has here replaces what the other side has. `full` looks at every message, else only at what
// changed by the counters. `socket` is a fresh path in a directory of ours. Refused, retry: nothing is half done that
// the next run does not mend.
Result<> send_user(const Dovecot& dovecot, const std::string& user, bool full, Stream& stream,
                   const std::vector<std::string>& pipe, const std::filesystem::path& socket, const Limits& limits);

// The other end; returns when dsync-server has ended.
Result<> receive_user(const Dovecot& dovecot, const std::string& user, Stream& stream, const Limits& limits);

}  // namespace midstream::mail
