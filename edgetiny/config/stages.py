"""Every stage with settings, by the name of its recipe table."""

from edgetiny.config.base import Config
from edgetiny.config.compare import CompareConfig, GateConfig
from edgetiny.config.data import DataBuildConfig
from edgetiny.config.demo import DemoConfig, DeviceConfig, DoctorConfig
from edgetiny.config.design import DesignConfig
from edgetiny.config.export import ExportConfig, VerifyConfig
from edgetiny.config.model import (
    GqaConfig,
    ImportanceConfig,
    InheritConfig,
    InitConfig,
    InspectConfig,
)
from edgetiny.config.run import BenchConfig, EvalConfig, GenerateConfig
from edgetiny.config.tokenizer import (
    TokenizerCompressConfig,
    TokenizerCountConfig,
    TokenizerMergeCountsConfig,
    TokenizerReportConfig,
    TokenizerTrainConfig,
)
from edgetiny.config.tokens import TokenizerDecodeConfig, TokenizerEncodeConfig
from edgetiny.config.train import TrainConfig

STAGES: dict[str, type[Config]] = {
    config.stage: config
    for config in (
        TokenizerTrainConfig,
        TokenizerCompressConfig,
        TokenizerCountConfig,
        TokenizerMergeCountsConfig,
        TokenizerReportConfig,
        TokenizerEncodeConfig,
        TokenizerDecodeConfig,
        DataBuildConfig,
        DesignConfig,
        InitConfig,
        InspectConfig,
        ImportanceConfig,
        InheritConfig,
        GqaConfig,
        TrainConfig,
        ExportConfig,
        VerifyConfig,
        GenerateConfig,
        EvalConfig,
        BenchConfig,
        CompareConfig,
        GateConfig,
        DeviceConfig,
        DemoConfig,
        DoctorConfig,
    )
}
