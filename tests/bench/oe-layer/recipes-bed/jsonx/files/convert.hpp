// SPDX-License-Identifier: MIT
// JSON to a structure and back, by way of two binary formats, and a regular expression beside.
#pragma once

#include <nlohmann/json.hpp>

#include <map>
#include <regex>
#include <string>
#include <vector>

struct Values {
    std::string name;
    int number;
    std::map<std::string, std::vector<double>> lists;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Values, name, number, lists)

template <int Part>
std::string convert(const std::string &text) {
    using nlohmann::json;
    json parsed = json::parse(text);
    Values values = parsed.get<Values>();
    json again = values;
    std::regex pattern("a+(b|c)*" + std::to_string(Part));
    auto cbor = json::to_cbor(again);
    auto msgpack = json::to_msgpack(again);
    auto flat = json::from_cbor(cbor).flatten();
    return flat.dump(2) + (std::regex_match(text, pattern) ? "y" : "n") +
           json::from_msgpack(msgpack).patch(json::diff(parsed, again)).dump();
}
