// The gate's session core, fed from both sides by peers that may do anything.
#include <algorithm>
#include <filesystem>

#include "base/text.h"
#include "gate/client_login.h"
#include "gate/server_login.h"
#include "gate/traffic.h"
#include "sys/file.h"
#include "tests/fuzz/target.h"

namespace midstream::fuzz {

namespace {

using Seeds = std::vector<std::string>;
using gate::Traffic;

// A piece: a byte that says who sent it (its lowest bit; the next one: hold from here on; the next: release), its length in
// two bytes, and that many bytes.
struct Piece {
  bool client;
  bool hold;
  bool release;
  std::string_view bytes;
};

std::vector<Piece> pieces_of(std::string_view input) {
  std::vector<Piece> pieces;
  while (input.size() >= 3) {
    const auto how = static_cast<unsigned char>(input[0]);
    const std::size_t size = gate::read_u16(input.substr(1));
    input.remove_prefix(3);
    pieces.push_back({(how & 1) == 0, (how & 2) != 0, (how & 4) != 0, input.substr(0, size)});
    input.remove_prefix(std::min(size, input.size()));
  }
  return pieces;
}

// Feeds as a shell does: what is not taken is fed again with more. `cut`: each piece in two.
class Run {
 public:
  Run(const std::vector<Piece>& pieces, bool cut) {
    for (const auto& piece : pieces) {
      if (piece.hold || piece.release) traffic.hold(piece.hold && !piece.release);
      if (piece.release) feed(false, "");
      const auto half = cut ? piece.bytes.size() / 2 : piece.bytes.size();
      feed(piece.client, piece.bytes.substr(0, half));
      feed(piece.client, piece.bytes.substr(half));
    }
  }
  Traffic traffic;
  std::string passed[2];

 private:
  void feed(bool client, std::string_view bytes) {
    auto& waiting = waiting_[client ? 0 : 1];
    waiting.append(bytes);
    const auto taken = client ? traffic.from_client(waiting) : traffic.from_server(waiting);
    must(taken <= waiting.size(), "no more goes on than has come");
    passed[client ? 0 : 1].append(waiting, 0, taken);
    waiting.erase(0, taken);
    // But for its last word to a session that is held at rest.
    const bool last_word = traffic.held() && traffic.answers().none() && waiting.starts_with('E');
    must(client || traffic.server_broken() || last_word || waiting.size() < gate::kHeaderSize, "the server is never held up");
    must(!traffic.safe() || traffic.answers().none(), "it is not safe while an answer is owed");
    must(!traffic.held() || traffic.transaction() == 'I', "nobody is held within a transaction");
  }
  std::string waiting_[2];
};

void gate_traffic(std::string_view input) {
  const auto pieces = pieces_of(input);
  const Run whole(pieces, false);
  const Run cut(pieces, true);
  const bool holds = std::any_of(pieces.begin(), pieces.end(), [](const Piece& piece) { return piece.hold; });
  must(whole.passed[1] == cut.passed[1], "what the server sent goes on the same however it is split");
  // A hold takes effect between messages, so that where it meets a split there is more than one right answer.
  if (holds) return;
  must(whole.passed[0] == cut.passed[0], "what the client sent goes on the same however it is split");
  must(whole.traffic.busy() == cut.traffic.busy() && whole.traffic.pinned() == cut.traffic.pinned(), "and means the same");
  must(whole.traffic.statements().all() == cut.traffic.statements().all(), "and prepares the same");
}

Seeds gate_traffic_seeds() {
  Seeds seeds;
  for (const auto& entry : std::filesystem::directory_iterator(MIDSTREAM_TRANSCRIPTS)) {
    if (entry.path().extension() != ".txt") continue;
    std::string seed;
    for (const auto& line : split(read_file(entry.path()).value(), '\n')) {
      if (line.empty() || line[0] == '=') continue;
      const auto bytes = from_hex(line.substr(2)).value();
      seed.push_back(line[0] == 'C' ? '\0' : '\1');
      seed.push_back(static_cast<char>(bytes.size() >> 8));
      seed.push_back(static_cast<char>(bytes.size()));
      seed += bytes;
    }
    seeds.push_back(std::move(seed));
  }
  std::ranges::sort(seeds);
  return seeds;
}

// The stored form of "pencil" (RFC 7677).
constexpr std::string_view kVerifier =
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
    "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

// Whatever a client sends before it is let in: it is never let in, for it knows no password. The first byte: is TLS offered,
// has the user a verifier, and of which kind.
void gate_login(std::string_view input) {
  if (input.empty()) return;
  const auto how = static_cast<unsigned char>(input[0]);
  input.remove_prefix(1);
  static const std::vector<gate::Rule> anyone{{}};
  gate::ClientLogin login({&anyone, "192.0.2.1", (how & 1) != 0, "seed", "3rfcNHYJY1ZVvWVs7j", "1234"});
  for (auto left = input.size() + 1; left > 0 && !input.empty();) {
    login.from_client(input);
    if (login.wants() == gate::ClientLogin::Wants::tls) {
      login.tls_started("hash", true);
    } else if (login.wants() == gate::ClientLogin::Wants::verifier) {
      login.verifier_is((how & 2) == 0 ? std::nullopt
                                       : std::optional((how & 4) == 0 ? std::string(kVerifier) : "md5" + std::string(32, '0')));
    }
    if (input.size() >= left) break;
    left = input.size();
  }
  must(login.wants() != gate::ClientLogin::Wants::admitted, "nobody is let in without the password");
  (void)login.take_output();
}

Seeds gate_login_seeds() {
  const auto start = gate::startup_packet({{"user", "u"}, {"database", "d"}});
  const std::string first = "n,,n=,r=rOprNGfwEbeRWgbNEkqO";
  std::string initial("SCRAM-SHA-256");
  initial.push_back('\0');
  gate::append_u32(initial, static_cast<std::uint32_t>(first.size()));
  const auto sasl = gate::message('p', initial + first);
  const auto last = gate::message('p', "c=biws,r=rOprNGfwEbeRWgbNEkqO3rfcNHYJY1ZVvWVs7j,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
  return {std::string("\2") + start + sasl + last, std::string("\3") + gate::ssl_request() + start + sasl + last,
          std::string("\6") + start + gate::message('p', "md5" + std::string(33, '\0')),
          std::string("\1") + gate::cancel_request({1, "abcd"})};
}

// Whatever a server sends before it is ready, to a gate that has keys (first byte even) or wants TLS (odd).
void gate_server(std::string_view input) {
  if (input.empty()) return;
  const bool tls = (input[0] & 1) != 0;
  input.remove_prefix(1);
  gate::ServerLogin login({{{"user", "u"}}, gate::ScramKeys{gate::Secret("c"), gate::Secret("s")}, "rOprNGfwEbeRWgbNEkqO", tls});
  for (auto left = input.size() + 1; input.size() < left && login.wants() == gate::ServerLogin::Wants::bytes;) {
    left = input.size();
    if (login.from_server(input) == gate::ServerLogin::Wants::tls) login.tls_started();
  }
  if (login.wants() == gate::ServerLogin::Wants::ready) (void)login.greeting({1, "abcd"});
  must(login.wants() != gate::ServerLogin::Wants::failed || !login.error().empty(), "a failure has a reason");
}

Seeds gate_server_seeds() {
  using namespace std::literals;
  const auto ok = gate::message('R', "\0\0\0\0"s) + gate::parameter_status("a", "b") + gate::message('K', "\0\0\0\1abcd"s) +
                  gate::message('Z', "I");
  const auto sasl = gate::message('R', "\0\0\0\x0aSCRAM-SHA-256\0\0"s) +
                    gate::message('R', "\0\0\0\x0br=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"s) +
                    gate::message('R', "\0\0\0\x0cv=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="s);
  return {"\0"s + ok, "\0"s + sasl + ok, "\1S"s, "\0"s + gate::error_message({"28000", "no", ""})};
}

}  // namespace

std::vector<Target> gate_targets() {
  return {{"gate_traffic", gate_traffic, gate_traffic_seeds},
          {"gate_login", gate_login, gate_login_seeds},
          {"gate_server", gate_server, gate_server_seeds}};
}

}  // namespace midstream::fuzz
