#include "lab/workload/mail_wire.h"

#include <fmt/format.h>

#include "base/text.h"
#include "lab/workload/http.h"
#include "sys/file.h"

namespace midstream::lab {

Result<MailPlaces> parse_mail_places(const std::string& text) {
  MailPlaces places;
  for (const auto& word : split(text, ' ')) {
    const auto equals = std::min(word.find('='), word.size());
    const auto key = word.substr(0, equals);
    std::string* field = key == "mx"      ? &places.mx
                         : key == "imap"  ? &places.imap
                         : key == "sink"  ? &places.sink_domain
                         : key == "users" ? &places.users_file
                                          : nullptr;
    if (field == nullptr || equals == word.size())
      return refused(fmt::format("--mail: '{}' is not known", printable(word)), "give mx=, imap=, sink= and users=");
    *field = word.substr(equals + 1);
  }
  if (places.mx.empty() || places.imap.empty() || places.sink_domain.empty() || places.users_file.empty()) {
    return refused("--mail: something is missing", "give mx=, imap=, sink= and users=");
  }
  return places;
}

Result<std::vector<MailUser>> read_mail_users(const std::string& path) {
  std::vector<MailUser> users;
  for (const auto& line : split(trim(TRY(read_file(path, 1u << 20))), '\n')) {
    const auto words = split(line, ' ');
    if (words.size() != 2) return refused(fmt::format("{} has a line that is not ADDRESS PASSWORD", path));
    users.push_back({words[0], words[1]});
  }
  return users;
}

Result<MailWire> MailWire::connect(Resolver& resolver, const std::string& name, std::uint16_t port, TlsContext* tls,
                                   Deadline deadline) {
  const auto addresses = TRY(resolver.lookup(name));
  auto fd = TRY(connect_any(addresses, port, deadline, {}));
  auto channel = open_channel(std::move(fd), tls, name, deadline, {});
  if (!channel) return retry(fmt::format("{}:{}: {}", name, port, channel.error()));
  return MailWire(std::move(*channel), name);
}

Result<> MailWire::start_tls(TlsContext& tls, Deadline deadline) {
  buffer_.clear();
  auto channel = open_channel(channel_->take(), &tls, name_, deadline, {});
  if (!channel) return retry(fmt::format("{}: TLS: {}", name_, channel.error()));
  channel_ = std::move(*channel);
  return {};
}

Result<> MailWire::write(std::string_view bytes, Deadline deadline) {
  if (auto sent = channel_->write(bytes, deadline, {}); !sent) return retry(fmt::format("{}: {}", name_, sent.error()));
  return {};
}

Result<> MailWire::fill(Deadline deadline) {
  auto more = channel_->read(deadline, {});
  if (!more) return retry(fmt::format("{}: {}", name_, more.error()));
  if (more->empty()) return retry(fmt::format("{}: closed", name_));
  buffer_ += *more;
  return {};
}

Result<std::string> MailWire::line(Deadline deadline) {
  auto end = buffer_.find('\n');
  while (end == std::string::npos) {
    CHECK_OK(fill(deadline));
    end = buffer_.find('\n');
  }
  auto line = buffer_.substr(0, end);
  buffer_.erase(0, end + 1);
  if (line.ends_with('\r')) line.pop_back();
  return line;
}

Result<std::string> MailWire::bytes(std::size_t count, Deadline deadline) {
  while (buffer_.size() < count) CHECK_OK(fill(deadline));
  auto taken = buffer_.substr(0, count);
  buffer_.erase(0, count);
  return taken;
}

}  // namespace midstream::lab
