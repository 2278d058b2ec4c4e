#include "sys/sockets.h"

#include <arpa/inet.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "base/text.h"

namespace midstream {

namespace {

template <class T>
bool hex(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return error == std::errc() && end == text.data() + text.size();
}

// The kernel prints each 32-bit word of the address in the host's order.
bool parse_end(std::string_view text, bool v6, std::string& address, std::uint16_t& port) {
  const std::size_t digits = v6 ? 32 : 8;
  if (text.size() != digits + 5 || text[digits] != ':' || !hex(text.substr(digits + 1), port)) return false;
  std::array<unsigned char, 16> bytes{};
  for (std::size_t at = 0; at < digits; at += 8) {
    std::uint32_t word = 0;
    if (!hex(text.substr(at, 8), word)) return false;
    std::memcpy(bytes.data() + at / 2, &word, sizeof word);
  }
  address = address_text(bytes.data(), v6);
  return true;
}

}  // namespace

std::string address_text(const unsigned char* bytes, bool v6) {
  char buffer[INET6_ADDRSTRLEN];
  ::inet_ntop(v6 ? AF_INET6 : AF_INET, bytes, buffer, sizeof buffer);
  std::string address = buffer;
  if (address.starts_with("::ffff:") && address.find('.') != std::string::npos) address.erase(0, 7);
  return address;
}

std::vector<SocketEntry> parse_sockets(std::string_view text, bool udp, bool v6) {
  std::vector<SocketEntry> sockets;
  for (const std::string& line : split(text, '\n')) {
    std::vector<std::string> words = split(line, ' ');
    std::erase(words, "");
    SocketEntry entry{.udp = udp};
    if (words.size() < 10 || !parse_end(words[1], v6, entry.local, entry.port)) continue;
    if (!parse_end(words[2], v6, entry.remote, entry.remote_port)) continue;
    entry.listening = udp ? entry.remote_port == 0 : words[3] == "0A";
    // SYN_RECV to CLOSE_WAIT: somebody is, or was a moment ago, on the other end. TIME_WAIT is nobody any more.
    entry.established =
        !udp && (words[3] == "01" || words[3] == "03" || words[3] == "04" || words[3] == "05" || words[3] == "08");
    entry.inode = std::strtoull(words[9].c_str(), nullptr, 10);
    sockets.push_back(std::move(entry));
  }
  return sockets;
}

}  // namespace midstream
