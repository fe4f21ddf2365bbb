// SPDX-License-Identifier: MIT
#include "decompose.hpp"

double part3(double factor) { return decompose<6>(factor) + decompose<11>(factor); }
