// What stands in the mailboxes of one side, and what the rest of the world got: docs/formats/collection.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace midstream::lab {

struct MailFolder {
  std::string user, name;  // INBOX, or as IMAP has it
  std::int64_t uidvalidity = 0;
};
struct MailMessage {
  std::string user, folder;
  std::int64_t uid = 0;  // 0: nobody has asked for it yet
  std::string id;        // of its Message-ID, without the angle brackets
  std::string flags;     // Maildir's letters, in order

  bool operator==(const MailMessage&) const = default;
};
struct MailCollection {
  std::vector<MailFolder> folders;
  std::vector<MailMessage> messages;
};

// One recipient's copy, as the rest of the world's server wrote it down.
struct SinkLine {
  std::string id, to;
  std::string client;  // the address that it came from
};

// Prints a collection of the mailboxes DIRECTORY/USER/Maildir, read off the files (Maildir++ and Dovecot's uidlist, version
// 3); `directory`'s own name is the domain. No daemon is asked.
Result<> collect_mail(const std::filesystem::path& directory, std::ostream& out);

Result<MailCollection> parse_mail(std::string_view text);
// A torn last line is left out.
Result<std::vector<SinkLine>> parse_sink(std::string_view text);

}  // namespace midstream::lab
